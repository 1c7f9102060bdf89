"""Examples from files, folders and the hub; a bad row is set aside with its file and line, and costs itself alone."""

from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from everlearn.data.layouts import KNOWN, Layout
from everlearn.data.rejects import Reject, Rows, named
from everlearn.data.scan import Raw, csv_rows, json_rows, jsonl_rows, parse_json
from everlearn.data.sequences import FileExamples, stamp
from everlearn.data.texts import CHUNK, read_texts
from everlearn.errors import ConfigError, DataError
from everlearn.examples import Example
from everlearn.names import optional

TEXT = (".txt", ".md")
ROWS: Mapping[str, Callable[[Path], Iterator[Raw]]] = {
    ".jsonl": jsonl_rows,
    ".ndjson": jsonl_rows,
    ".json": json_rows,
    ".csv": csv_rows,
    ".tsv": csv_rows,
}
SPLITS = {"validation": ("validation", "valid", "val", "eval", "dev")}
"""What published data sets call their parts, where the names differ."""
IN_MEMORY = 2**26
"""Bytes from which a file's examples stay on disk: 64 MiB."""


def read(
    path: str | Path,
    layout: str | Mapping[str, str] = "auto",
    split: str | None = None,
    chunk: int = CHUNK,
    in_memory: int = IN_MEMORY,
) -> Rows:
    """The examples of a file, a folder, or a data set of the hub.

    Args:
        path: a .jsonl, .json, .csv, .tsv, .parquet, .txt or .md file; a folder of text files, or with one file for
            each split; or "hub:owner/name" or "hub:owner/name/config".
        layout: a name of `everlearn.data.layouts.LAYOUTS`, or a mapping from our field names to the file's.
        split: which part of a folder or of a data set: "train", "validation", "test", or the name it has there.
        chunk: most bytes of a text file that make one document.
        in_memory: the examples of a larger text, JSONL or hub file, in bytes, are read when they are asked for.

    Raises:
        DataError: if there is nothing there, or no row of it can be learned from.
        ConfigError: if the format, the layout or the split is not known.
    """
    if str(path).startswith("hub:"):
        rows: Rows = optional("everlearn.data.hub:read_hub", "hub")(str(path), layout, split, in_memory)
    else:
        file = _file(Path(path).expanduser(), split)
        rows = _read_texts(file, split, chunk, in_memory) if _is_text(file) else _read_file(file, layout, in_memory)
    if rows.examples:
        return rows
    if not rows.rejects:
        raise DataError(f"{path}: there is nothing in it.")
    raise DataError(
        f"{path}: none of its {rows.total} rows can be learned from; {named(rows.rejects[:1])}. "
        f"Known layouts: {KNOWN}; "
        'others are read by naming their fields, as in layout = {"prompt": "question", "response": "answer"}.'
    )


def split_file(folder: Path, split: str) -> Path | None:
    """The file of a folder that holds a split, under any of its usual names."""
    names = [f"{name}{suffix}" for name in SPLITS.get(split, (split,)) for suffix in (*ROWS, ".parquet", *TEXT)]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _file(path: Path, split: str | None) -> Path:
    """The file or folder to read."""
    if path.is_dir():
        return (split_file(path, split) if split else None) or path
    if not path.is_file():
        names = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        near = get_close_matches(path.name, names, n=1)
        raise DataError(f"there is no file or folder {path}" + (f"; did you mean {near[0]}?" if near else "."))
    if split:
        raise ConfigError(f"{path} is a file, which has no splits; leave out the split {split!r}.")
    return path


def _is_text(path: Path) -> bool:
    return path.is_dir() or path.suffix.lower() in TEXT


def _read_texts(path: Path, split: str | None, chunk: int, in_memory: int) -> Rows:
    """The documents of a text file or of a folder's text files, at any depth, in the order of their names."""
    paths = [path]
    if path.is_dir():
        inside = path / split if split else path
        paths = sorted(p for p in inside.rglob("*") if p.suffix.lower() in TEXT and p.is_file())
    if not paths:
        wanted = f"file or folder for the split {split!r}" if split else "text file (.txt, .md)"
        there = sorted(p.name for p in path.iterdir())[:10]
        raise DataError(f"{path} has no {wanted}; it has {there}. Name a file or a split that is there.")
    rows = read_texts(paths, chunk)
    if sum(stamp(p)[0] for p in paths) > in_memory:
        return rows
    return Rows(tuple(rows.examples), rows.rejects)


def _read_file(path: Path, layout: str | Mapping[str, str], in_memory: int) -> Rows:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        rows: Rows = optional("everlearn.data.hub:read_parquet", "hub")(path, layout)
        return rows
    if suffix not in ROWS:
        raise ConfigError(f"{path}: unknown format {suffix!r}; known are {', '.join([*ROWS, '.parquet', *TEXT])}.")
    lines = _JsonLines(Layout(path, layout))
    if ROWS[suffix] is jsonl_rows and stamp(path)[0] > in_memory:
        return _index(path, lines)
    return collect(ROWS[suffix](path), lines.layout)


def collect(raws: Iterator[Raw], layout: Layout) -> Rows:
    """The examples of raw rows, in memory."""
    read_rows = [example_of(raw, layout) for raw in raws]
    examples = tuple(row for row in read_rows if isinstance(row, Example))
    return Rows(examples, tuple(row for row in read_rows if isinstance(row, Reject)), layout.closed)


def example_of(raw: Raw, layout: Layout) -> Example | Reject:
    """The example that a row holds, or why it holds none."""
    if raw.reason:
        return Reject(raw.source, raw.reason, raw.text)
    try:
        return layout.example(raw.value, raw.source)
    except DataError as error:
        return Reject(raw.source, str(error), raw.text)


@dataclass(frozen=True)
class _JsonLines:
    """From one line of a JSONL file to its example."""

    layout: Layout

    def __call__(self, line: bytes, source: str) -> Example:
        return self.layout.example(parse_json(line.decode("utf-8")), source)


def _index(path: Path, parse: _JsonLines) -> Rows:
    """The examples of a large JSONL file, left in it; only the places of the good rows are kept."""
    places, rejects = array("Q"), list[Reject]()
    before = stamp(path)
    for raw in jsonl_rows(path):
        example = example_of(raw, parse.layout)
        if isinstance(example, Reject):
            rejects.append(example)
        else:
            places.extend((0, raw.start, raw.stop, int(raw.source.rpartition(":")[2])))
    return Rows(FileExamples((path,), (before,), places, parse), tuple(rejects), parse.layout.closed)
