"""Data sets of the Hugging Face hub, and Parquet files."""

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from datasets import ClassLabel, Dataset, Features, load_dataset  # type: ignore[import-untyped, import-not-found, unused-ignore]
from datasets.exceptions import DatasetNotFoundError  # type: ignore[import-untyped, import-not-found, unused-ignore]

from everlearn.data.layouts import Layout
from everlearn.data.rejects import Reject, Rows
from everlearn.data.scan import SHOWN, Raw
from everlearn.data.sequences import View
from everlearn.data.sources import collect, example_of
from everlearn.errors import ConfigError, DataError
from everlearn.examples import Example


def read_parquet(path: Path, layout: str | Mapping[str, str]) -> Rows:
    """The examples of a Parquet file, in memory; a row's source is "file:row", counted from 1.

    Raises:
        DataError: if it is not a Parquet file.
    """
    try:
        table = load_dataset("parquet", data_files=str(path), split="train", streaming=True)
        return collect(_raws(table, table.features, str(path)), Layout(path, layout))
    except (ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet ({error}); write it again.") from error


def read_hub(name: str, layout: str | Mapping[str, str], split: str | None, in_memory: int) -> Rows:
    """The examples of a split of a data set of the hub; lazy where it is larger than `in_memory` bytes.

    Args:
        name: "hub:owner/name" or "hub:owner/name/config".
        layout: how its rows become examples.
        split: its name there; None is "train".
        in_memory: in bytes.

    Raises:
        ConfigError: if the name has another form.
        DataError: if there is no such data set or split, or the hub cannot be reached.
    """
    parts = name.removeprefix("hub:").split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise ConfigError(f"{name!r}: write hub:owner/name or hub:owner/name/config.")
    split = split or "train"
    try:
        table = load_dataset("/".join(parts[:2]), parts[2] if parts[2:] else None, split=split)
    except (DatasetNotFoundError, ValueError, OSError) as error:
        raise DataError(f"{name}, split {split!r}: {error}") from error
    return read_table(table, Layout(Path(name), layout), f"{name}[{split}]", in_memory)


def read_table(table: Dataset, layout: Layout, source: str, in_memory: int) -> Rows:
    """The examples of a data set's table; lazy where it is larger than `in_memory` bytes."""
    raws = _raws(table, table.features, source)
    if table.data.nbytes <= in_memory:
        return collect(raws, layout)
    kept, rejects = array("Q"), list[Reject]()
    for number, raw in enumerate(raws):
        example = example_of(raw, layout)
        if isinstance(example, Reject):
            rejects.append(example)
        else:
            kept.append(number)
    return Rows(View(_Table(table, layout, source), kept), tuple(rejects), layout.closed)


def table_of(rows: Sequence[Mapping[str, Any]]) -> Dataset:
    """A table in memory of rows with the same columns; one that a row lacks is null there."""
    columns = dict.fromkeys(name for row in rows for name in row)
    return Dataset.from_dict({name: [row.get(name) for row in rows] for name in columns})


@dataclass(frozen=True, eq=False)
class _Table(Sequence[Example]):
    """Rows of a table as examples, read when asked for; a bad row raises."""

    table: Dataset
    layout: Layout
    source: str

    def __len__(self) -> int:
        return len(self.table)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | Sequence[Example]:
        if isinstance(index, slice):
            return View(self, range(len(self))[index])
        raw = next(_raws([self.table[index]], self.table.features, self.source))
        return self.layout.example(raw.value, f"{self.source}:{index + 1}")


def _raws(rows: Any, features: Features | None, source: str) -> Iterator[Raw]:
    """Rows with the names of their class labels in place of numbers."""
    names = {name: kind.names for name, kind in (features or {}).items() if isinstance(kind, ClassLabel)}
    for number, row in enumerate(rows, start=1):
        value = {key: _named(row[key], names[key]) if key in names else row[key] for key in row}
        yield Raw(f"{source}:{number}", value, str(row)[:SHOWN])


def _named(label: int | None, names: list[str]) -> str | None:
    # The hub's mark of a label that is not known is -1.
    return names[label] if label is not None and label >= 0 else None
