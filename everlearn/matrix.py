"""The matrix R: every version's score on every experience, with each test item's outcome where it was measured."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from everlearn.errors import ConfigError, DataError, EverlearnError
from everlearn.types import Outcome

Unit = Literal["fraction", "percent"]
BESIDE = ("single", "joint", "in_context", "repeat")
"""The fields of a matrix that are rows beside R: its references, and the base model's second measurement."""


@dataclass(frozen=True)
class Row:
    """One version's scores, by experience in the matrix's order.

    Args:
        scores: None where nothing was measured.
        outcomes: each test item's, in the test set's order; an empty tuple where only the score is known.
            Empty altogether for a row that was read from a published table.
        note: what a reader has to know of how it was measured.
    """

    scores: tuple[float | None, ...]
    outcomes: tuple[tuple[Outcome, ...], ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        """Refuse outcomes that belong to another number of experiences."""
        if self.outcomes and len(self.outcomes) != len(self.scores):
            raise DataError(
                f"a row has {len(self.scores)} scores and outcomes of {len(self.outcomes)} experiences; "
                "give one tuple of outcomes for each score, empty where there are none."
            )

    @classmethod
    def from_outcomes(cls, names: Sequence[str], outcomes: Mapping[str, Sequence[Outcome]]) -> "Row":
        """The row whose scores are the means of the outcomes; experiences left out or empty are not measured.

        Raises:
            DataError: if an outcome's experience is not among the names.
        """
        unknown = sorted(set(outcomes) - set(names))
        if unknown:
            raise DataError(f"outcomes of unknown experiences {unknown}; the matrix has {list(names)}.")
        items = tuple(tuple(outcomes.get(name, ())) for name in names)
        means = tuple(math.fsum(o.score for o in cell) / len(cell) if cell else None for cell in items)
        return cls(means, items if any(items) else ())

    def items(self, column: int) -> tuple[Outcome, ...]:
        """The outcomes behind one score; empty where they are not known."""
        return self.outcomes[column] if self.outcomes else ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        plain: dict[str, Any] = {"scores": list(self.scores)}
        if any(self.outcomes):
            plain["outcomes"] = [[_plain(o) for o in cell] for cell in self.outcomes]
        return plain | ({"note": self.note} if self.note else {})

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Row":
        """The inverse of `to_dict`."""
        outcomes = tuple(tuple(Outcome(**o) for o in cell) for cell in plain.get("outcomes", ()))
        return cls(tuple(plain["scores"]), outcomes, plain.get("note", ""))


def _plain(outcome: Outcome) -> dict[str, Any]:
    plain = {"key": outcome.key, "score": outcome.score, "reply": outcome.reply}
    return plain | ({"routed": outcome.routed, "confidence": outcome.confidence} if outcome.routed else {})


@dataclass(frozen=True)
class Matrix:
    """R[t, i]: the score of version t on experience i; what a run has to show, also while it is under way.

    Args:
        names: the experiences in the order they are learned; those not yet learned included.
        rows: row 0 is the untouched base model, row t the version after experience t, counted from 1.
        single: on each experience, a model trained on that one alone.
        joint: on each experience, one model trained on all together.
        in_context: the untouched base model, asked with demonstrations before each test item.
        repeat: the base model measured a second time, for the noise floor.
        general: the same versions on a suite of general abilities, which are its names.
        counts: number of test items of each experience, where outcomes do not tell.
        unit: of all scores; outcomes are fractions.
    """

    names: tuple[str, ...]
    rows: tuple[Row, ...]
    single: Row | None = None
    joint: Row | None = None
    in_context: Row | None = None
    repeat: Row | None = None
    general: "Matrix | None" = None
    counts: tuple[int, ...] = ()
    unit: Unit = "fraction"

    def __post_init__(self) -> None:
        """Refuse rows of unlike length, more versions than experiences, and outcomes of unlike test items."""
        wrong = [len(r.scores) for r in self._all() if len(r.scores) != len(self.names)]
        if wrong or not self.rows or (self.counts and len(self.counts) != len(self.names)):
            raise DataError(
                f"a matrix of {len(self.names)} experiences has {len(self.rows)} rows, of which some have "
                f"{wrong or 'no'} scores, and {len(self.counts)} counts; give each row one score or None by name, "
                "the base model's row first."
            )
        if self.general is not None and len(self.general.rows) != len(self.rows):
            raise DataError(
                f"{len(self.general.rows)} versions have general scores and {len(self.rows)} have scores; give a row "
                "for each version, of None where nothing was measured."
            )
        for column, name in enumerate(self.names):
            tests = {tuple(o.key for o in r.items(column)) for r in self._all()} - {()}
            if len(tests) > 1:
                raise DataError(
                    f"{name}: versions were scored on unlike test items, or in another order; score all of them on "
                    "the same test set."
                )

    def _all(self) -> list[Row]:
        return [*self.rows, *(row for name in BESIDE if (row := getattr(self, name)) is not None)]

    @classmethod
    def from_outcomes(
        cls,
        names: Sequence[str],
        rows: Sequence[Mapping[str, Sequence[Outcome]]],
        general: Sequence[Mapping[str, Sequence[Outcome]]] = (),
    ) -> "Matrix":
        """The matrix of the versions scored so far.

        Args:
            names: of the experiences, in the order they are learned.
            rows: for each version, the base model first, its outcomes by experience.
            general: for each version likewise, its outcomes by general ability.
        """
        abilities = tuple(dict.fromkeys(name for outcomes in general for name in outcomes))
        return cls(
            names=tuple(names),
            rows=tuple(Row.from_outcomes(names, outcomes) for outcomes in rows),
            general=cls.from_outcomes(abilities, general) if abilities else None,
        )

    @property
    def learned(self) -> int:
        """Number of experiences learned so far, T."""
        return len(self.rows) - 1

    @property
    def scores(self) -> tuple[tuple[float | None, ...], ...]:
        """R itself: `scores[t][i - 1]` is R[t, i]."""
        return tuple(row.scores for row in self.rows)

    @property
    def diagonal(self) -> Row:
        """Each experience as it was just learned, R[i, i]; nothing for those not yet learned."""
        size, later = self.learned, len(self.names) - self.learned
        scores = (*(self.rows[i + 1].scores[i] for i in range(size)), *[None] * later)
        outcomes = (*(self.rows[i + 1].items(i) for i in range(size)), *[()] * later)
        return Row(scores, outcomes if any(outcomes) else ())

    def count(self, column: int) -> int | None:
        """Number of test items behind a column; None where it is not known."""
        if self.counts:
            return self.counts[column]
        return next((len(r.items(column)) for r in self._all() if r.items(column)), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data, outcomes included."""
        plain: dict[str, Any] = {"names": list(self.names), "unit": self.unit, "counts": list(self.counts)}
        parts = {name: getattr(self, name) for name in (*BESIDE, "general")}
        plain |= {name: part.to_dict() for name, part in parts.items() if part is not None}
        return plain | {"rows": [row.to_dict() for row in self.rows]}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Matrix":
        """The inverse of `to_dict`."""
        row = {name: Row.from_dict(plain[name]) for name in BESIDE if name in plain}
        return cls(
            names=tuple(plain["names"]),
            rows=tuple(Row.from_dict(r) for r in plain["rows"]),
            single=row.get("single"),
            joint=row.get("joint"),
            in_context=row.get("in_context"),
            repeat=row.get("repeat"),
            general=cls.from_dict(plain["general"]) if "general" in plain else None,
            counts=tuple(plain["counts"]),
            unit=plain["unit"],
        )


def _published(names: Sequence[str], rows: Sequence[Row], single: Row | None, counts: Sequence[int]) -> Matrix:
    numbers = [s for r in rows for s in r.scores if s is not None]
    unit: Unit = "percent" if max(numbers, default=0) > 1 else "fraction"
    return Matrix(tuple(names), tuple(rows), single=single, counts=tuple(counts), unit=unit)


def _from_entry(entry: Mapping[str, Any]) -> Matrix:
    if "mean_over_sequences" in entry:  # SEAL: the base row comes first; what is not yet learned is printed as 0
        table = entry["mean_over_sequences"]
        names = [f"passage-{i + 1}" for i in range(len(table[0]))]
        rows = [Row(tuple(s if t == 0 or i < t else None for i, s in enumerate(r))) for t, r in enumerate(table)]
        return _published(names, rows, None, ())
    names = entry["tasks"]
    base = entry.get("base", [None] * len(names))
    rows = [Row(tuple(r)) for r in (base, *entry["matrix"])]
    single = Row(tuple(entry["single"])) if "single" in entry else None
    return _published(names, rows, single, entry.get("counts", ()))


def _from_csv(text: str) -> Matrix:
    header, *lines = csv.reader(text.splitlines())
    names = header[1:]
    scores = {int(line[0]): Row(tuple(float(cell) if cell.strip() else None for cell in line[1:])) for line in lines}
    if sorted(scores)[0] < 0 or len(scores) < len(lines):
        raise ValueError("the first column is t: 0 for the base model, 1 and up, no number twice")
    empty = Row((None,) * len(names))
    return _published(names, [scores.get(t, empty) for t in range(max(scores) + 1)], None, ())


def _entry(document: Mapping[str, Any], name: str, path: Path) -> Mapping[str, Any]:
    if "matrix" in document or "mean_over_sequences" in document:
        return document
    if name in document:
        found: Mapping[str, Any] = document[name]
        return found
    close = get_close_matches(name, document, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise ConfigError(f"{path} has no matrix named {name!r}; name one of {sorted(document)}.{hint}")


def load_published(path: str | Path, name: str = "") -> Matrix:
    """Read a matrix that somebody printed: scores without outcomes, most often without the base model's row.

    - JSON: an object with "tasks" (names) and "matrix" (a row after each experience, null where not measured), and
      optionally "base" (row 0), "single" and "counts"; or an object of such objects by name.
    - JSON as SEAL's authors publish it, with "mean_over_sequences": row 0 is the base model.
    - CSV: a header `t,<name>,...`; each line t (0 is the base model) and the scores, empty where not measured.

    Scores are taken as percent if any is above 1, else as fractions.

    Args:
        path: of the file; one that ends in .csv is read as CSV.
        name: which of the file's matrices, where it holds several.

    Raises:
        ConfigError: if the file holds no matrix of that name.
        DataError: if the file cannot be read as one of these.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        return _from_csv(text) if path.suffix.lower() == ".csv" else _from_entry(_entry(json.loads(text), name, path))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; check the path.") from error
    except EverlearnError:
        raise
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(
            f'{path} is not a matrix ({error}); give JSON with "tasks" and "matrix", or CSV with a line for each t.'
        ) from error
