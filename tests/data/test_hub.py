from pathlib import Path

import pytest

from everlearn.data.layouts import Layout
from everlearn.data.sources import read
from everlearn.errors import ConfigError, DataError

datasets = pytest.importorskip("datasets", reason="needs datasets: pip install 'everlearn[hub]'.")

from everlearn.data import hub  # noqa: E402

ROWS = [{"prompt": f"p{i}", "response": f"r{i}"} for i in range(5)] + [{"prompt": "p", "response": None}]


def test_parquet_rows_are_examples_and_a_bad_one_is_named_by_its_number(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    datasets.Dataset.from_list(ROWS).to_parquet(path)
    rows = read(path)
    assert [e.response for e in rows.examples] == ["r0", "r1", "r2", "r3", "r4"]
    assert rows.examples[2].source == f"{path}:3"
    assert [(r.source, r.reason) for r in rows.rejects] == [(f"{path}:6", "the field 'response' is null, not text")]


def test_what_is_not_parquet_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_text("no parquet")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read(path)


def test_class_labels_are_read_by_their_names() -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    rows = [{"text": "hm", "label": 0}, {"text": "fine", "label": 1}, {"text": "?", "label": -1}]
    table = datasets.Dataset.from_list(rows, features=features)
    for in_memory in (10**9, 0):
        found = hub.read_table(table, Layout(Path("a"), {"prompt": "text", "response": "label"}), "a", in_memory)
        assert [(e.prompt[0].content, e.response) for e in found.examples] == [("hm", "bad"), ("fine", "good")]
        assert [r.source for r in found.rejects] == ["a:3"]


def test_a_large_table_read_lazily_is_the_table_read_whole() -> None:
    table, layout = datasets.Dataset.from_list([ROWS[5], *ROWS]), Layout(Path("a"))
    whole, lazy = (hub.read_table(table, layout, "a", in_memory) for in_memory in (10**9, 0))
    assert isinstance(whole.examples, tuple)
    assert not isinstance(lazy.examples, tuple)
    assert tuple(lazy.examples) == whole.examples
    assert tuple(lazy.examples[1:4]) == whole.examples[1:4]
    assert lazy.rejects == whole.rejects


def test_a_name_of_another_form_is_refused_and_what_cannot_be_reached_is_said() -> None:
    with pytest.raises(ConfigError, match="write hub:owner/name or hub:owner/name/config"):
        read("hub:name")
    with pytest.raises(DataError, match=r"hub:nobody-there/nothing-here, split 'dev'"):
        read("hub:nobody-there/nothing-here", split="dev")
