"""Rows of JSONL, JSON and CSV files as they stand, each with the line it starts on; a broken row costs itself alone."""

import csv
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everlearn.errors import DataError

SHOWN = 200  # characters of a bad row that are kept to show to people
_SPACE = re.compile(r"[ \t\r\n]*")
_INSTANCES = re.compile(r'"Instances"\s*:\s*\[')
# Where a list goes on after an element that cannot be read: the next object, or the end of the list.
_RESUME = re.compile(r"\}(?=\s*,\s*\{|\s*\]\s*\Z)")
_END = re.compile(r"\]\s*(?:\Z|[,}])")
# Cells of a CSV file that hold JSON, and those that may be left empty.
_JSON_CELLS = ("messages", "conversations", "choices", "metadata")
_OPTIONAL_CELLS = ("system", "choices", "metadata")


@dataclass(frozen=True, slots=True)
class Raw:
    """One row as it stands in its file.

    Args:
        source: where it starts, as "file:line".
        value: the row in plain data; None where it cannot be read.
        text: its first characters.
        reason: why it cannot be read; empty where it can.
        start: byte at which its line starts, in JSONL.
        stop: byte after its line, in JSONL.
    """

    source: str
    value: object
    text: str
    reason: str = ""
    start: int = 0
    stop: int = 0


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(k for k in keys if keys.count(k) > 1)!r} stands twice")
    return row


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)


def _why(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"invalid UTF-8 at byte {error.start} of the row"
    if isinstance(error, json.JSONDecodeError):
        return f"broken JSON ({error.msg})"
    return "JSON nested too deep" if isinstance(error, RecursionError) else str(error)


def parse_json(text: str) -> object:
    """One JSON value, strictly: a key that stands twice, NaN and Infinity are refused.

    Raises:
        ValueError: if the text is not such a value.
    """
    value, end = _DECODER.raw_decode(text, _skip(text, 0))
    if _skip(text, end) < len(text):
        raise json.JSONDecodeError("Extra data", text, end)
    return value


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def head(path: Path) -> int:
    """Number of bytes that a byte-order mark takes at the start of a UTF-8 file.

    Raises:
        DataError: if the mark is that of UTF-16.
    """
    with path.open("rb") as file:
        mark = file.read(3)
    if mark[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{path} is UTF-16; save it as UTF-8.")
    return 3 if mark == b"\xef\xbb\xbf" else 0


def jsonl_rows(path: Path) -> Iterator[Raw]:
    """The rows of a file with one JSON value a line; empty lines are passed over."""
    stop = head(path)
    with path.open("rb") as file:
        file.seek(stop)
        for number, line in enumerate(file, start=1):
            start, stop = stop, stop + len(line)
            if line.strip():
                yield _jsonl_row(line, f"{path}:{number}", start, stop)


def _jsonl_row(line: bytes, source: str, start: int, stop: int) -> Raw:
    shown = line[: 4 * SHOWN].decode("utf-8", "replace").strip()[:SHOWN]
    try:
        value = parse_json(line.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        return Raw(source, None, shown, _why(error), start, stop)
    return Raw(source, value, shown, "", start, stop)


def json_rows(path: Path) -> Iterator[Raw]:
    """The rows of a JSON list, of a Natural-Instructions task, or of JSONL under the name .json.

    Several rows on one line are told apart as "file:line, row n".

    Raises:
        DataError: if a list is never closed, since the rows that are missing cannot be counted.
    """
    text = path.read_bytes()[head(path) :].decode("utf-8", "surrogateescape")
    at = _skip(text, 0)
    if text[at : at + 1] == "[":
        yield from _list_rows(path, text, at + 1, {})
        return
    whole = _whole_object(text, at)
    found = _INSTANCES.search(text) if isinstance(whole.get("Instances"), list) else None
    if found:
        yield from _list_rows(path, text, found.end(), {key: whole[key] for key in whole if key != "Instances"})
    elif whole and "\n" in text.strip():
        raise DataError(f"{path} holds one object, with the fields {sorted(whole)}; a list of rows is needed.")
    else:
        yield from jsonl_rows(path)


def _whole_object(text: str, at: int) -> dict[str, Any]:
    """The one object that is the whole file, where that is what it holds."""
    try:
        value, end = json.JSONDecoder().raw_decode(text, at)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) and _skip(text, end) == len(text) else {}


def _list_rows(path: Path, text: str, at: int, shared: Mapping[str, Any]) -> Iterator[Raw]:
    one_line = "\n" not in text.strip()
    line, counted, last = 1, 0, 0
    for number, (start, stop, value, reason) in enumerate(_elements(path, text, at), start=1):
        line, counted = line + text.count("\n", counted, start), start
        source = f"{path}:{line}" + (f", row {number}" if one_line or line == last else "")
        last = line
        row, shown = text[start:stop], text[start : min(stop, start + SHOWN)]
        if not reason and not row.isascii() and not encodable(row):
            reason = "invalid UTF-8"
        if isinstance(value, dict) and shared:
            value = {**shared, **value}
        shown = shown.encode("utf-8", "replace").decode()
        yield Raw(source, None if reason else value, shown, reason)


def encodable(text: str) -> bool:
    """Whether a text can be written as UTF-8: it holds no half of a surrogate pair."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _elements(path: Path, text: str, at: int) -> Iterator[tuple[int, int, object, str]]:
    """(start, stop, value, reason) of each element of the list whose bracket stands just before `at`."""
    while True:
        at = _skip(text, at)
        if _END.match(text, at):
            return
        start, (value, at, reason) = at, _element(text, at)
        if at < 0:
            line = text.count("\n", 0, start) + 1
            raise DataError(
                f"{path}:{line}: the list cannot be read past this place ({reason}); is the file cut short? "
                "Repair it, or use JSONL, where a broken row costs itself alone."
            )
        yield start, at, value, reason
        at = _skip(text, at)
        at += text[at : at + 1] == ","


def _element(text: str, at: int) -> tuple[object, int, str]:
    """(value, stop, reason) of the element at `at`; stop is -1 where the list cannot be taken up again."""
    try:
        value, stop = _DECODER.raw_decode(text, at)
    except (ValueError, RecursionError) as error:
        reason = _why(error)
    else:
        return value, stop, ""
    try:  # a key that stands twice spoils the row, but where the row ends is known
        return None, json.JSONDecoder().raw_decode(text, at)[1], reason
    except (ValueError, RecursionError):
        found = None if text[at : at + 1] == "]" else _RESUME.search(text, at + 1)
        return None, found.end() if found else -1, reason


def csv_rows(path: Path) -> Iterator[Raw]:
    """The rows of a CSV or TSV file with a header; the cells messages, choices and metadata hold JSON.

    Raises:
        DataError: if the header is missing or names a column twice, or a quote is never closed.
    """
    head(path)
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        header = [name.strip() for name in next(reader, [])]
        if len(set(header)) < max(len(header), 1):
            raise DataError(f"{path}:1: the header {header} has to name each column once.")
        while True:
            source = f"{path}:{reader.line_num + 1}"
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if "unexpected end" in str(error):
                    raise DataError(f"{source}: a quote is opened in this row and never closed.") from error
                yield Raw(source, None, "", f"broken CSV ({error})")
                continue
            if cells:
                yield _csv_row(header, cells, source)


def _csv_row(header: list[str], cells: list[str], source: str) -> Raw:
    text = ",".join(cells)
    shown = text[:SHOWN].encode("utf-8", "replace").decode()
    if not encodable(text):
        return Raw(source, None, shown, "invalid UTF-8")
    if len(cells) != len(header):
        return Raw(source, None, shown, f"{len(cells)} cells, but the header has {len(header)}")
    row = {name: cell for name, cell in zip(header, cells, strict=True) if cell or name not in _OPTIONAL_CELLS}
    try:
        return Raw(source, {n: parse_json(c) if n in _JSON_CELLS and c else c for n, c in row.items()}, shown)
    except (ValueError, RecursionError) as error:
        return Raw(source, None, shown, _why(error))
