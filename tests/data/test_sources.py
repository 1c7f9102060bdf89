import json
import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.data.sequences import FileExamples
from everlearn.data.sources import optional, read, split_file
from everlearn.errors import ConfigError, DataError
from everlearn.examples import Example, Message


def asked(prompt: str, response: str, source: str) -> Example:
    return Example(messages=(Message("user", prompt), Message("assistant", response)), source=source)


def test_every_format_gives_the_same_examples(tmp_path: Path) -> None:
    rows = [{"prompt": f"p{i}", "response": f"r, \n{i}"} for i in range(3)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=0))
    cells = "".join(f'{row["prompt"]},"{row["response"]}"\r\n' for row in rows)
    (tmp_path / "a.csv").write_bytes(f"prompt,response\r\n{cells}".encode())
    for name, lines in (("a.jsonl", (1, 2, 3)), ("a.json", (2, 6, 10)), ("a.csv", (2, 4, 6))):
        path = tmp_path / name
        expected = [asked(r["prompt"], r["response"], f"{path}:{n}") for r, n in zip(rows, lines, strict=True)]
        assert list(read(path).examples) == expected
        assert list(read(str(path)).examples) == expected


def test_bad_rows_are_rejects_and_good_rows_are_examples(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"prompt": "p"}\n{"prompt": "p", "response": "r"}\n{"prompt": "\xff"}\nnonsense\n')
    rows = read(path)
    assert list(rows.examples) == [asked("p", "r", f"{path}:2")]
    assert [r.source for r in rows.rejects] == [f"{path}:{line}" for line in (1, 3, 4)]
    assert rows.rejects[0].row == '{"prompt": "p"}'
    assert rows.total == 4


def test_a_file_without_a_good_row_is_an_error_that_says_what_was_found_and_what_is_known(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"query": "q", "answer": "a"}\n' * 2)
    with pytest.raises(
        DataError, match=r"none of its 2 rows.*a\.jsonl:1.*\['answer', 'query'\].*trace \{prompt, answer\}"
    ):
        read(path)
    path.write_text("\n")
    with pytest.raises(DataError, match="there is nothing in it"):
        read(path)


def test_what_is_not_there_or_not_known_is_said(tmp_path: Path) -> None:
    (tmp_path / "films.jsonl").write_text('{"text": "t"}\n')
    (tmp_path / "films.xls").write_text("")
    with pytest.raises(DataError, match=r"no file or folder .*film\.jsonl; did you mean films\.jsonl\?"):
        read(tmp_path / "film.jsonl")
    with pytest.raises(DataError, match="no file or folder"):
        read(tmp_path / "nowhere" / "film.jsonl")
    with pytest.raises(ConfigError, match=r"unknown format '\.xls'; known are \.jsonl"):
        read(tmp_path / "films.xls")
    with pytest.raises(ConfigError, match="a file, which has no splits"):
        read(tmp_path / "films.jsonl", split="train")
    with pytest.raises(DataError, match=r"has no text file \(.txt, .md\); it has \['films.jsonl', 'films.xls'\]"):
        read(tmp_path)
    with pytest.raises(DataError, match=r"no file or folder for the split 'test'"):
        read(tmp_path, split="test")


def test_a_folder_of_texts_is_read_in_the_order_of_names_at_any_depth(tmp_path: Path) -> None:
    for name, text in (("b.txt", "two"), ("a/z.md", "one"), ("c.TXT", "three"), ("d.html", "<p>"), ("a.d/x", "")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert [e.text for e in read(tmp_path).examples] == ["one", "two", "three"]
    assert [e.text for e in read(tmp_path, split="a").examples] == ["one"]
    lazy = read(tmp_path, in_memory=0).examples
    assert isinstance(lazy, FileExamples)
    assert list(lazy) == list(read(tmp_path).examples)


def test_splits_are_found_under_their_usual_names(tmp_path: Path) -> None:
    for name in ("train.json", "eval.json", "test.jsonl", "extra.csv"):
        (tmp_path / name).write_text("")
    assert split_file(tmp_path, "train") == tmp_path / "train.json"
    assert split_file(tmp_path, "validation") == tmp_path / "eval.json"
    assert split_file(tmp_path, "test") == tmp_path / "test.jsonl"
    assert split_file(tmp_path, "extra") == tmp_path / "extra.csv"
    assert split_file(tmp_path, "eval") == tmp_path / "eval.json"
    assert split_file(tmp_path, "dev") is None


lines = st.lists(
    st.sampled_from(
        [b'{"text": "t"}', '{"text": "é語"}\r'.encode(), b"", b"  ", b"broken", b'{"prompt": "p", "response": "r"}']
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(lines, st.booleans(), st.booleans())
def test_a_large_jsonl_file_read_lazily_is_the_file_read_whole(
    tmp_path_factory: pytest.TempPathFactory, rows: list[bytes], mark: bool, end: bool
) -> None:
    path = tmp_path_factory.mktemp("rows") / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" * mark + b"\n".join([b'{"text": "first"}', *rows]) + b"\n" * end)
    whole, lazy = read(path), read(path, in_memory=0)
    assert isinstance(whole.examples, tuple)
    assert isinstance(lazy.examples, FileExamples)
    assert tuple(lazy.examples) == whole.examples
    assert lazy.rejects == whole.rejects
    assert tuple(pickle.loads(pickle.dumps(lazy.examples))) == whole.examples


def test_a_missing_extra_is_an_error_that_says_how_to_install_it() -> None:
    with pytest.raises(ConfigError, match=r"needs 'no_such_package': pip install 'everlearn\[hub\]'"):
        optional("no_such_package.part:function", "hub")
    assert optional("json:loads", "hub")("[1]") == [1]


def test_the_readers_of_the_shared_texts_and_questions(shared: Path) -> None:
    text = read(shared / "text" / "shakespeare.txt").examples
    assert "".join(e.text for e in text) == (shared / "text" / "shakespeare.txt").read_text()
    fields = {"prompt": "question", "response": "answer"}
    assert len(read(shared / "gsm8k" / "test.jsonl", layout=fields).examples) == 1319
