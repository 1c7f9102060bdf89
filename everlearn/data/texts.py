"""Plain text files as documents of a bounded size, indexed by byte offsets so that they may be larger than memory."""

from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path

from everlearn.data.rejects import Reject, Rows
from everlearn.data.scan import SHOWN, head
from everlearn.data.sequences import FileExamples, stamp
from everlearn.errors import ConfigError
from everlearn.examples import Example

CHUNK = 2048
"""About how many bytes of a text make one document: a row of some 500 tokens."""


def read_texts(paths: Sequence[Path], chunk: int = CHUNK) -> Rows:
    """The documents of UTF-8 text files, left in their files; white space alone makes no document.

    Args:
        paths: the files, in the order in which they are read.
        chunk: a document has at most so many bytes, and half as many at least but at the end of its file. It ends at
            a blank line where there is one in its second half, or else at the end of a line, a word, a character.

    Raises:
        ConfigError: if `chunk` is less than 8.
    """
    if chunk < 8:
        raise ConfigError(f"chunk = {chunk} bytes; use 8 or more, so that any character fits.")
    places = array("Q")
    rejects: list[Reject] = []
    stamps = tuple(stamp(path) for path in paths)
    for number, path in enumerate(paths):
        for line, start, piece in _pieces(path, chunk):
            bad = _bad(piece, path, line)
            if bad:
                rejects.append(bad)
            elif piece.strip():
                places.extend((number, start, start + len(piece), line))
    return Rows(FileExamples(tuple(paths), stamps, places, document), tuple(rejects))


def document(raw: bytes, source: str) -> Example:
    """A document of these bytes, with the line ends of Unix."""
    return Example(text=raw.decode("utf-8").replace("\r\n", "\n"), source=source)


def _bad(piece: bytes, path: Path, line: int) -> Reject | None:
    try:
        piece.decode("utf-8")
    except UnicodeDecodeError as error:
        at = line + piece.count(b"\n", 0, error.start)
        start = piece.rfind(b"\n", 0, error.start) + 1
        return Reject(f"{path}:{at}", "invalid UTF-8", piece[start : start + SHOWN].decode("utf-8", "replace"))
    return None


def _pieces(path: Path, chunk: int) -> Iterator[tuple[int, int, bytes]]:
    """(line, offset, bytes) of each piece; together they are the file but for its byte-order mark."""
    offset, line, block = head(path), 1, b""
    with path.open("rb") as file:
        file.seek(offset)
        while block := block + file.read(chunk + 1 - len(block)):
            piece = block[: cut(block, chunk)]
            yield line, offset, piece
            offset, line, block = offset + len(piece), line + piece.count(b"\n"), block[len(piece) :]


def cut(block: bytes, chunk: int) -> int:
    """Where to end a document that starts this block: at `chunk` bytes or before.

    The block is longer than `chunk` unless the file ends with it.
    """
    if len(block) <= chunk:
        return len(block)
    for mark in (b"\n\n", b"\n\r\n", b"\n", b" "):
        found = block.rfind(mark, chunk // 2 - len(mark), chunk)
        if found >= 0:
            return found + len(mark)
    # Of the bytes of a character all but the first are 10xxxxxx, and there are three at most.
    return next((end for end in range(chunk, chunk - 4, -1) if block[end] & 0xC0 != 0x80), chunk)
