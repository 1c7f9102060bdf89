"""Lazy sequences of examples: text that stays in its files, and selections that copy no example."""

from abc import ABC, abstractmethod
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, groupby
from pathlib import Path
from typing import overload

from everlearn.errors import DataError
from everlearn.examples import Example


@dataclass(frozen=True, eq=False)
class FileExamples(Sequence[Example]):
    """Examples that stay in their files and are read when asked for: 32 bytes of memory each.

    Args:
        paths: the files.
        stamps: of each file, as it was when it was indexed.
        places: four numbers for each example: which file, first byte, byte after the last, first line.
        parse: from an example's bytes and its source to the example.
    """

    paths: tuple[Path, ...]
    stamps: tuple[tuple[int, int], ...]
    places: "array[int]"
    parse: Callable[[bytes, str], Example]

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.places) // 4

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | Sequence[Example]:
        """One example, read from its file, or a lazy part.

        Raises:
            DataError: if the file has changed since it was indexed.
        """
        if isinstance(index, slice):
            return View(self, range(len(self))[index])
        return next(self.each([range(len(self))[index]]))

    def __iter__(self) -> Iterator[Example]:
        """All examples in order."""
        return self.each(range(len(self)))

    def each(self, rows: Iterable[int]) -> Iterator[Example]:
        """The given rows in the given order; a file is opened once for as many as follow each other in it.

        Raises:
            DataError: if the file has changed since it was indexed.
        """
        for number, together in groupby(rows, lambda row: self.places[4 * row]):
            path = self.paths[number]
            if stamp(path) != self.stamps[number]:
                raise DataError(f"{path} has changed since it was indexed; read it again.")
            with path.open("rb") as file:
                for row in together:
                    start, stop, line = self.places[4 * row + 1 : 4 * row + 4]
                    file.seek(start)
                    yield self.parse(file.read(stop - start), f"{path}:{line}")


def stamp(path: Path) -> tuple[int, int]:
    """Size in bytes and time of the last change in nanoseconds.

    Raises:
        DataError: if the file is gone.
    """
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise DataError(f"{path} is no longer there; put it back.") from error
    return status.st_size, status.st_mtime_ns


@dataclass(frozen=True, eq=False)
class View(Sequence[Example]):
    """Some rows of a sequence, in a given order, copied nowhere.

    Args:
        source: the whole.
        rows: which of its rows.
        origin: the experience that they are said to belong to; empty leaves what they say.
    """

    source: Sequence[Example]
    rows: Sequence[int]
    origin: str = ""

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | Sequence[Example]:
        """One example, or a lazy part."""
        if isinstance(index, slice):
            return View(self.source, self.rows[index], self.origin)
        return next(self.each([index]))

    def __iter__(self) -> Iterator[Example]:
        """All rows in order."""
        return self.each(range(len(self)))

    def each(self, rows: Iterable[int]) -> Iterator[Example]:
        """The given rows in the given order."""
        for example in each(self.source, (self.rows[row] for row in rows)):
            yield replace(example, origin=self.origin) if self.origin else example


@dataclass(frozen=True, eq=False)
class Joined(Sequence[Example]):
    """Several sequences end to end, copied nowhere."""

    parts: tuple[Sequence[Example], ...]

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(len(part) for part in self.parts))

    def __len__(self) -> int:
        """Number of examples."""
        return self._ends[-1] if self.parts else 0

    def __iter__(self) -> Iterator[Example]:
        """All examples in order."""
        for part in self.parts:
            yield from part

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | Sequence[Example]:
        """One example, or a lazy part."""
        if isinstance(index, slice):
            return View(self, range(len(self))[index])
        row = range(len(self))[index]
        part = bisect_right(self._ends, row)
        return self.parts[part][row - (self._ends[part - 1] if part else 0)]


class Planned(Sequence[Example], ABC):
    """Examples with a plan of when and how often each is learned from; parts of them keep it."""

    @property
    @abstractmethod
    def plain(self) -> Sequence[Example]:
        """Each example once, with no plan."""

    @abstractmethod
    def selected(self, rows: Sequence[int]) -> "Planned":
        """The same plan over some of the examples, whose places rise."""

    @abstractmethod
    def owned(self, origin: str) -> "Planned":
        """The same plan over examples that say that they belong to the experience `origin`."""


def each(examples: Sequence[Example], rows: Iterable[int]) -> Iterator[Example]:
    """The given rows in the given order, without opening a file for each of them."""
    if isinstance(examples, Planned):
        return each(examples.plain, rows)
    if isinstance(examples, FileExamples | View):
        return examples.each(rows)
    return (examples[row] for row in rows)


def select(examples: Sequence[Example], rows: Sequence[int]) -> Sequence[Example]:
    """The given rows: a tuple where the examples are in memory, a view where they are not; a plan stays a plan."""
    if isinstance(examples, Planned):
        return examples.selected(rows)
    if isinstance(examples, tuple | list):
        return tuple(examples[row] for row in rows)
    return View(examples, rows)


def with_origin(examples: Sequence[Example], origin: str) -> Sequence[Example]:
    """The same examples, each saying that it belongs to the experience `origin`."""
    if isinstance(examples, Planned):
        return examples.owned(origin)
    if isinstance(examples, tuple | list):
        return tuple(replace(example, origin=origin) for example in examples)
    return View(examples, range(len(examples)), origin)
