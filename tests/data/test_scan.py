import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.data.scan import Raw, csv_rows, json_rows, jsonl_rows, parse_json
from everlearn.errors import DataError


def written(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def places(path: Path, rows: list[Raw]) -> list[str]:
    return [row.source.removeprefix(str(path)) for row in rows]


def test_a_jsonl_row_has_its_line_and_its_bytes(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": "\xc3\xa9"}\n  \n{"a": 3}')
    rows = list(jsonl_rows(path))
    assert places(path, rows) == [":1", ":3", ":5"]
    assert [row.value for row in rows] == [{"a": 1}, {"a": "é"}, {"a": 3}]
    content = path.read_bytes()
    assert [parse_json(content[row.start : row.stop].decode()) for row in rows] == [row.value for row in rows]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": 1', "broken JSON"),
        (b'{"a": "\xff"}', "invalid UTF-8 at byte 7"),
        (b'{"a": 1, "b": 2, "a": 3}', "the key 'a' stands twice"),
        (b'{"a": {"b": 2, "b": 3}}', "the key 'b' stands twice"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": 1} {"a": 2}', "Extra data"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"a": ' + b"9" * 5000 + b"}", "digits"),
    ],
)
def test_a_broken_jsonl_row_costs_itself_alone(tmp_path: Path, line: bytes, reason: str) -> None:
    path = written(tmp_path, "a.jsonl", b'{"a": 0}\n' + line + b'\n{"a": 9}\n')
    first, bad, last = jsonl_rows(path)
    assert (first.value, last.value, bad.value) == ({"a": 0}, {"a": 9}, None)
    assert reason in bad.reason
    assert bad.source == f"{path}:2"
    assert 0 < len(bad.text) <= 200


def test_utf16_is_refused_by_its_name(tmp_path: Path) -> None:
    path = written(tmp_path, "a.jsonl", '{"a": 1}'.encode("utf-16"))
    with pytest.raises(DataError, match="UTF-16; save it as UTF-8"):
        list(jsonl_rows(path))


def test_rows_of_a_pretty_list_have_lines_and_rows_of_one_line_have_numbers(tmp_path: Path) -> None:
    rows = [{"a": 1}, {"a": "x\ny"}, {"a": [1, {"b": 2}]}]
    pretty = written(tmp_path, "pretty.json", json.dumps(rows, indent=2).replace("\n", "\r\n"))
    flat = written(tmp_path, "flat.json", "\ufeff" + json.dumps(rows) + "\n")
    mixed = written(tmp_path, "mixed.json", '[{"a": 1}, {"a": 2},\n\n{"a": 3}]')
    assert [row.value for row in json_rows(pretty)] == rows == [row.value for row in json_rows(flat)]
    assert places(pretty, list(json_rows(pretty))) == [":2", ":5", ":8"]
    assert places(flat, list(json_rows(flat))) == [":1, row 1", ":1, row 2", ":1, row 3"]
    assert places(mixed, list(json_rows(mixed))) == [":1", ":1, row 2", ":3"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b'{"a": 1, "a": 2}', "stands twice"),
        (b'{"a": tru, "b": {"c": "}"}}', "broken JSON"),
        (b'{"a": "\xff"}', "invalid UTF-8"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a" 1}', "broken JSON"),
    ],
)
def test_a_broken_row_of_a_list_costs_itself_alone(tmp_path: Path, row: bytes, reason: str) -> None:
    path = written(tmp_path, "a.json", b'[{"a": 0},\n' + row + b',\n{"a": 9}]')
    first, bad, last = json_rows(path)
    assert (first.value, last.value, bad.value) == ({"a": 0}, {"a": 9}, None)
    assert reason in bad.reason
    assert places(path, [first, bad, last]) == [":1", ":2", ":3"]


def test_a_broken_last_row_of_a_list_costs_itself_alone(tmp_path: Path) -> None:
    path = written(tmp_path, "a.json", '[{"a": 0},\n{"a" 1}\n]\n')
    assert [bool(row.reason) for row in json_rows(path)] == [False, True]


@pytest.mark.parametrize("content", ['[{"a": 0},\n{"a": 1}', '[{"a": 0},\n{"a":', "[", '[{"a": 0}] [{"a": 1}]'])
def test_a_list_that_is_cut_short_is_an_error_and_not_fewer_rows(tmp_path: Path, content: str) -> None:
    path = written(tmp_path, "a.json", content)
    with pytest.raises(DataError, match=r"a\.json:\d+: the list cannot be read past this place"):
        list(json_rows(path))


def test_jsonl_under_the_name_json_is_read_as_jsonl(tmp_path: Path) -> None:
    path = written(tmp_path, "a.json", '{"a": 0}\n{"a": 1}\n')
    assert [row.value for row in json_rows(path)] == [{"a": 0}, {"a": 1}]


def test_one_object_is_no_list_of_rows(tmp_path: Path) -> None:
    path = written(tmp_path, "a.json", json.dumps({"data": [{"a": 1}]}, indent=1))
    with pytest.raises(DataError, match=r"one object, with the fields \['data'\]; a list of rows is needed"):
        list(json_rows(path))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab]},{[", max_size=3), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(json_values, max_size=5), st.sampled_from([None, 1, "\t"]))
def test_rows_of_a_list_are_those_of_the_standard_library(
    tmp_path_factory: pytest.TempPathFactory, rows: list[object], indent: int | str | None
) -> None:
    path = tmp_path_factory.mktemp("list") / "a.json"
    path.write_text(json.dumps(rows, indent=indent, ensure_ascii=False), encoding="utf-8")
    assert [(row.value, row.reason) for row in json_rows(path)] == [(row, "") for row in rows]


def test_csv_lines_are_where_rows_start_and_quotes_and_line_ends_stay_in_cells(tmp_path: Path) -> None:
    text = '\ufeffprompt,response\r\n"a ""b"",\r\nc",d\r\n\r\ne,"f\n\n"\r\ng,h\r\n'
    path = written(tmp_path, "a.csv", text)
    rows = list(csv_rows(path))
    assert [row.value for row in rows] == [
        {"prompt": 'a "b",\r\nc', "response": "d"},
        {"prompt": "e", "response": "f\n\n"},
        {"prompt": "g", "response": "h"},
    ]
    assert places(path, rows) == [":2", ":5", ":8"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"a,b,c", "3 cells, but the header has 2"),
        (b"a", "1 cells, but the header has 2"),
        (b"a,\xff", "invalid UTF-8"),
        (b'"a"b,c', "broken CSV"),
        (b'"' + b"a" * 140_000 + b'",b', "field larger than field limit"),
    ],
)
def test_a_broken_csv_row_costs_itself_alone(tmp_path: Path, row: bytes, reason: str) -> None:
    path = written(tmp_path, "a.csv", b"x,y\n1,2\n" + row + b"\n3,4\n")
    first, bad, last = csv_rows(path)
    assert (first.value, last.value, bad.value) == ({"x": "1", "y": "2"}, {"x": "3", "y": "4"}, None)
    assert reason in bad.reason
    assert places(path, [first, bad, last]) == [":2", ":3", ":4"]


def test_a_csv_quote_that_is_never_closed_is_an_error_and_not_fewer_rows(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", 'x,y\n1,2\n3,"4\n5,6\n')
    with pytest.raises(DataError, match=r"a\.csv:3: a quote is opened"):
        list(csv_rows(path))


@pytest.mark.parametrize("header", ["", "a,a\n"])
def test_a_csv_header_names_each_column_once(tmp_path: Path, header: str) -> None:
    with pytest.raises(DataError, match="each column once"):
        list(csv_rows(written(tmp_path, "a.csv", header)))


def test_cells_that_hold_json_are_read_and_empty_optional_ones_are_left_out(tmp_path: Path) -> None:
    path = written(tmp_path, "a.tsv", 'prompt\tchoices\tsystem\na\t["x"]\t\nb\t\tbe brief\nc\t[\t\n')
    good, other, bad = csv_rows(path)
    assert good.value == {"prompt": "a", "choices": ["x"]}
    assert other.value == {"prompt": "b", "system": "be brief"}
    assert "broken JSON" in bad.reason
