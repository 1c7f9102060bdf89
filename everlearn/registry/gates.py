"""Gates: predicates on the matrix that decide whether a version is kept, and say why in a sentence."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum
from typing import Protocol, runtime_checkable

from everlearn.comparison import noise_floor
from everlearn.errors import ConfigError
from everlearn.matrix import Matrix, Row
from everlearn.statistics import ROUNDING


@dataclass(frozen=True)
class Verdict:
    """A gate's decision.

    Args:
        accept: whether the version is kept.
        reason: a sentence with the numbers behind it.
    """

    accept: bool
    reason: str


@runtime_checkable
class Gate(Protocol):
    """Decides from the matrix whether a version is kept. Frozen data."""

    def judge(self, matrix: Matrix, t: int) -> Verdict:
        """Judge version t, which learned experience t, both counted from 1; later rows are not looked at."""


@dataclass(frozen=True)
class Retain:
    """Keep a version that forgot little: neither an earlier experience nor the mean of the general suite fell far.

    A fall is measured from the best earlier row, the base model's included. What was measured before and is not
    measured now counts as lost.

    Args:
        drop: largest fall allowed, as a fraction in [0, 1]; raised to the noise floor where the base model was
            measured twice.
    """

    drop: float = 0.1

    def __post_init__(self) -> None:
        """Refuse a drop outside [0, 1]."""
        _require_fraction("Retain(drop)", self.drop)

    def judge(self, matrix: Matrix, t: int) -> Verdict:
        """Reject where something fell by more than is allowed; name each of them."""
        _require_row(matrix, t)
        courses = [*_courses(matrix, t)[: t - 1], *_general(matrix, t)]
        known = [course for course in courses if course.best is not None]
        lost = [course for course in known if -course.change > max(self.drop, course.floor) + ROUNDING]
        if lost:
            falls = "; ".join(f"{c} ({max(self.drop, c.floor):.3f} allowed)" for c in lost)
            return Verdict(False, f"Too much was forgotten: {falls}.")
        if not known:
            return Verdict(True, "Nothing could be forgotten: 0 earlier scores to compare with.")
        worst = min(known, key=lambda course: course.change)
        allowed = max(self.drop, worst.floor)
        return Verdict(True, f"Retained: the worst of {len(known)} compared is {worst} ({allowed:.3f} allowed).")


@dataclass(frozen=True)
class Learn:
    """Keep a version that learned: its own experience gained over the row before.

    Args:
        gain: the score has to rise by more than this fraction in [0, 1]; raised to the noise floor where the base
            model was measured twice.
    """

    gain: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a gain outside [0, 1]."""
        _require_fraction("Learn(gain)", self.gain)

    def judge(self, matrix: Matrix, t: int) -> Verdict:
        """Reject where the new experience's score did not rise by more than is asked, or was not measured."""
        _require_row(matrix, t)
        course = _courses(matrix, t)[t - 1]
        course = _Course(course.name, course.scores[-2:], course.floor, t - 1)
        needed = max(self.gain, course.floor)
        if course.best is None or course.scores[-1] is None:
            where = f"R[{t - 1},{t}] or R[{t},{t}]"
            return Verdict(False, f"It is not known whether {course.name} was learned: {where} was not measured.")
        if course.change > needed + ROUNDING:
            return Verdict(True, f"Learned: {course} (more than {needed:.3f} asked).")
        return Verdict(False, f"Not learned: {course} (more than {needed:.3f} asked).")


@dataclass(frozen=True)
class AllOf:
    """Keep a version that all of several gates keep; with no gate, every version.

    Args:
        gates: asked in order; all of them, so that the reason is complete.
    """

    gates: tuple[Gate, ...] = ()

    def judge(self, matrix: Matrix, t: int) -> Verdict:
        """Reject with the reasons of those that reject; accept with all reasons."""
        verdicts = [gate.judge(matrix, t) for gate in self.gates]
        against = [v.reason for v in verdicts if not v.accept]
        reasons = against or [v.reason for v in verdicts] or [f"Version {t} is kept: 0 gates were asked."]
        return Verdict(not against, " ".join(reasons))


@dataclass(frozen=True)
class _Course:
    """One column's scores from row `first` to the version that is judged, as fractions."""

    name: str
    scores: tuple[float | None, ...]
    floor: float
    first: int = 0

    @property
    def best(self) -> float | None:
        """The best score before the last; None where nothing was measured."""
        return max((s for s in self.scores[:-1] if s is not None), default=None)

    @property
    def change(self) -> float:
        """From the best to the last; everything is lost where the last was not measured."""
        now = self.scores[-1]
        return float("-inf") if now is None or self.best is None else now - self.best

    def __str__(self) -> str:
        """What happened, with numbers."""
        row = self.first + self.scores.index(self.best)
        now = self.scores[-1]
        if now is None or self.best is None:
            return f"{self.name}, {self.best} in row {row}, was not measured in row {self.first + len(self.scores) - 1}"
        return f"{self.name} from {self.best:.3f} in row {row} to {now:.3f}, {self.change:+.3f}"


def _courses(matrix: Matrix, t: int) -> list[_Course]:
    rows = [_fractions(matrix, row) for row in matrix.rows[: t + 1]]
    floor = (noise_floor(matrix).maximum or 0.0) * _scale(matrix) if matrix.repeat is not None else 0.0
    return [_Course(name, tuple(row[i] for row in rows), floor) for i, name in enumerate(matrix.names)]


def _general(matrix: Matrix, t: int) -> list[_Course]:
    """The mean of the general suite as a column of its own; none where there is no suite."""
    if matrix.general is None:
        return []
    general = matrix.general
    means = tuple(_mean(_fractions(general, row)) for row in general.rows[: t + 1])
    again = _mean(_fractions(general, general.repeat)) if general.repeat is not None else None
    floor = abs(again - means[0]) if again is not None and means[0] is not None else 0.0
    return [_Course("the general suite", means, floor)]


def _fractions(matrix: Matrix, row: Row) -> tuple[float | None, ...]:
    return tuple(None if score is None else score * _scale(matrix) for score in row.scores)


def _scale(matrix: Matrix) -> float:
    return 0.01 if matrix.unit == "percent" else 1.0


def _mean(scores: Sequence[float | None]) -> float | None:
    known = [score for score in scores if score is not None]
    return fsum(known) / len(known) if known and len(known) == len(scores) else None


def _require_row(matrix: Matrix, t: int) -> None:
    if not 1 <= t <= matrix.learned:
        raise ConfigError(
            f"version {t} cannot be judged: the matrix has versions 1 to {matrix.learned}; name one of them."
        )


def _require_fraction(what: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"{what} is {value}; give a fraction in [0, 1].")
