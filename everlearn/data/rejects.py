"""Rows that cannot be learned from: set aside with file, line and reason, and too many of them stop the run."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from everlearn.errors import DataError
from everlearn.examples import Example
from everlearn.files import read_jsonl, write_atomic

NAMED = 3  # rejects that an error message quotes
BAD_ROWS = 0.05
"""The largest fraction of bad rows that is let pass where nobody says."""


@dataclass(frozen=True)
class Reject:
    """A row that cannot be learned from.

    Args:
        source: where it stands, as "file:line".
        reason: what is wrong with it.
        row: its first characters.
    """

    source: str
    reason: str
    row: str = ""


@dataclass(frozen=True)
class Rows:
    """What was read.

    Args:
        examples: the good rows; lazy where the file is large.
        rejects: the bad ones.
        labels: the closed set of answers, where the layout publishes one.
    """

    examples: Sequence[Example]
    rejects: tuple[Reject, ...] = ()
    labels: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """Number of rows, good and bad."""
        return len(self.examples) + len(self.rejects)


def named(rejects: Sequence[Reject]) -> str:
    """The first few of them in words."""
    more = f"; and {len(rejects) - NAMED} more" if len(rejects) > NAMED else ""
    return "; ".join(f"{reject.source}: {reject.reason}" for reject in rejects[:NAMED]) + more


def check_rejects(rejects: Sequence[Reject], total: int, limit: float = BAD_ROWS) -> None:
    """Stop where too large a part of the rows is bad.

    Args:
        rejects: the bad rows.
        total: number of rows, good and bad.
        limit: the largest fraction of bad rows that is let pass.

    Raises:
        DataError: if more are bad; names the first few.
    """
    if len(rejects) > limit * total:
        raise DataError(
            f"{len(rejects)} of {total} rows are bad, more than the limit of {limit:.3g} allows: {named(rejects)}. "
            "Correct or remove them, or raise the limit (`bad_rows` of a stream file, Settings or a Flywheel)."
        )


def write_rejects(path: Path, rejects: Sequence[Reject]) -> None:
    """Set bad rows aside as JSONL, `{source, reason, row}`, whole or not at all; an empty file where there are none."""
    write_atomic(path, "".join(json.dumps(asdict(reject), ensure_ascii=False) + "\n" for reject in rejects))


def read_rejects(path: Path) -> list[Reject]:
    """What `write_rejects` wrote; nothing where there is no file."""
    return [Reject(**row) for _, row in read_jsonl(path)] if path.exists() else []
