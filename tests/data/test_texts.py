import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlearn.data.sequences import FileExamples
from everlearn.data.texts import cut, read_texts
from everlearn.errors import ConfigError, DataError


@settings(max_examples=80, deadline=None)
@given(st.text(st.sampled_from("ab \né語😀"), min_size=1, max_size=300), st.integers(8, 64))
def test_the_documents_are_the_file_cut_into_pieces(
    tmp_path_factory: pytest.TempPathFactory, text: str, chunk: int
) -> None:
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_bytes(text.encode())
    rows = read_texts([path], chunk)
    pieces = [example.text for example in rows.examples]
    assert rows.rejects == ()
    assert all(piece.strip() and len(piece.encode()) <= chunk for piece in pieces)
    rest = text
    for piece, example in zip(pieces, rows.examples, strict=True):
        before, found, rest = rest.partition(piece)
        assert found
        assert not before.strip()
        assert example.source == f"{path}:{text[: len(text) - len(rest) - len(piece)].count(chr(10)) + 1}"
    assert not rest.strip()


@pytest.mark.parametrize(
    ("block", "end"),
    [
        (b"aaaa\n\nbb\ncc dd", 6),
        (b"aaaa\r\n\r\nb\ncc dd", 8),
        (b"aaaaaaaa\ncc dd", 9),
        (b"aaaaaaaa ccddd", 9),
        (b"\n\naaaaaaaaccddd", 10),
        ("aaaaaaaaé語".encode(), 10),
        ("aaaaaaa語é".encode(), 10),
        ("aaaaaaaa語é".encode(), 8),
        (b"short", 5),
    ],
)
def test_a_document_ends_at_a_blank_line_a_line_a_word_or_a_character(block: bytes, end: int) -> None:
    assert cut(block, 10) == end


def test_documents_have_their_file_and_line_and_unix_line_ends(tmp_path: Path) -> None:
    one, two = tmp_path / "1.txt", tmp_path / "2.md"
    one.write_bytes(b"\xef\xbb\xbffirst line\r\nsecond line\r\n\r\n\r\nthird line")
    two.write_bytes(b"\n" * 40 + b"fourth line")
    rows = read_texts([one, two], 18)
    assert [e.text for e in rows.examples] == ["first line\n", "second line\n\n\n", "third line", "\n\n\n\nfourth line"]
    assert [e.source for e in rows.examples] == [f"{one}:1", f"{one}:2", f"{one}:5", f"{two}:37"]


def test_invalid_utf8_costs_its_piece_and_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"good one\n" + b"goo\nb\xffd\n" + b"good two")
    rows = read_texts([path], 10)
    assert [e.text for e in rows.examples] == ["good one\n", "good two"]
    (reject,) = rows.rejects
    assert (reject.source, reject.reason) == (f"{path}:3", "invalid UTF-8")


def test_a_file_that_changes_after_it_was_indexed_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("some text")
    examples = read_texts([path]).examples
    path.write_text("another text")
    with pytest.raises(DataError, match="has changed since it was indexed"):
        examples[0]
    path.unlink()
    with pytest.raises(DataError, match="no longer there"):
        examples[0]


def test_a_chunk_too_small_for_a_character_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="use 8 or more"):
        read_texts([], 7)


def test_a_text_larger_than_memory_takes_bytes_per_document(tmp_path: Path) -> None:
    path, chunk = tmp_path / "large.txt", 2048
    paragraph = "The river ran on, and nobody had told it where to go.\n" * 30
    with path.open("w") as file:
        for number in range(12_500):
            file.write(f"{number}\n{paragraph}\n")
    size = path.stat().st_size
    assert size > 20_000_000
    tracemalloc.start()
    examples = read_texts([path], chunk).examples
    total = sum(len(example.text) for example in examples)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(examples, FileExamples)
    assert total == size
    assert len(examples) > size / chunk
    assert peak < 64 * len(examples) + 300_000 < size / 10
    assert examples[-1].text.endswith("go.\n\n")
    assert examples[len(examples) // 2] == examples[len(examples) // 2 :][0]
