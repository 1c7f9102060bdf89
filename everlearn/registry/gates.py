"""Gates: predicates on the matrix that decide whether a version is kept, and say why in a sentence."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum, sqrt
from statistics import NormalDist, fmean, variance
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
class Reached:
    """Keep a version that reached a score on its own experience.

    With needles up to the new length as a stage's test (`everlearn.metrics.needles`) and a score of 1, this is one half
    of what ends a stage of a growing context in Llama 3 (arXiv:2407.21783, sec. 3.4.2); `Recovered` is the other.

    Args:
        score: a fraction in [0, 1].
        on: the experiences of which it is asked; empty asks it of all.
    """

    score: float = 1.0
    on: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a score outside [0, 1]."""
        _require_fraction("Reached(score)", self.score)

    def judge(self, matrix: Matrix, t: int) -> Verdict:
        """Reject where the experience's score is lower, or was not measured."""
        _require_row(matrix, t)
        _require_names("Reached(on)", self.on, matrix)
        name, score = matrix.names[t - 1], _fractions(matrix, matrix.rows[t])[t - 1]
        if self.on and name not in self.on:
            return Verdict(True, f"No score has to be reached on {name}.")
        if score is None:
            return Verdict(False, f"It is not known what was reached on {name}: R[{t},{t}] was not measured.")
        count = matrix.count(t - 1)
        found = f"{score:.3f} on {name}{'' if count is None else f', of {count} items'} ({self.score:.3f} asked)"
        reached = score >= self.score - ROUNDING
        return Verdict(reached, f"Reached: {found}." if reached else f"Not reached: {found}.")


@dataclass(frozen=True)
class Recovered:
    """Keep a version that can do what the version before it could, within noise (arXiv:2407.21783, sec. 3.4.2).

    Noise is what is larger of two: how far two measurements of the base model lie apart, and how far chance alone would
    lower the mean over so many items: the normal quantile of `level` times the standard error of the change of each
    item. It bounds a single stage; `Retain` bounds what several lose together.

    Args:
        on: experiences that the ability is measured by, such as one with short texts; empty takes the general suite.
        level: one-sided confidence, in [0.5, 1); 0.5 leaves chance no room.
        drop: a fall that is allowed in any case, as a fraction in [0, 1].
    """

    on: tuple[str, ...] = ()
    level: float = 0.95
    drop: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a level or a drop without a meaning."""
        _require_fraction("Recovered(drop)", self.drop)
        if not 0.5 <= self.level < 1:
            raise ConfigError(f"Recovered(level) is {self.level}; give a confidence in [0.5, 1).")

    def judge(self, matrix: Matrix, t: int) -> Verdict:
        """Reject where the mean over what is compared fell by more than noise, or was not measured."""
        _require_row(matrix, t)
        _require_names("Recovered(on)", self.on, matrix)
        part, what = (matrix, " and ".join(self.on)) if self.on else (matrix.general, "the general suite")
        changes = [] if part is None else [_change(part, t, part.names.index(n)) for n in self.on or part.names]
        known = [change for change in changes if change is not None]
        if not known or len(known) < len(changes):
            return Verdict(False, f"It is not known whether {what} recovered: row {t - 1} or {t} has no score.")
        change = fmean(mean for mean, _ in known)
        chance = NormalDist().inv_cdf(self.level) * sqrt(fsum(spread for _, spread in known)) / len(known)
        floor = max(course.floor for course in (_courses(matrix, t) if self.on else _general(matrix, t)))
        allowed = max(self.drop, chance, floor)
        numbers = f"{what} {change:+.3f} since row {t - 1} ({allowed:.3f} is noise)"
        recovered = -change <= allowed + ROUNDING
        return Verdict(recovered, f"Recovered: {numbers}." if recovered else f"Not recovered: {numbers}.")


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


def _change(matrix: Matrix, t: int, column: int) -> tuple[float, float] | None:
    """A column's change in row t, and the variance of that by chance, from the changes of its items."""
    before, after = (matrix.rows[i].scores[column] for i in (t - 1, t))
    if before is None or after is None:
        return None
    pairs = zip(matrix.rows[t - 1].items(column), matrix.rows[t].items(column), strict=True)
    changes = [new.score - old.score for old, new in pairs]
    spread = variance(changes) / len(changes) if len(changes) > 1 else 0.0
    return (after - before) * _scale(matrix), spread


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


def _require_names(what: str, names: Sequence[str], matrix: Matrix) -> None:
    if strange := [name for name in names if name not in matrix.names]:
        raise ConfigError(f"{what} names {strange}, which are no experiences; they are {', '.join(matrix.names)}.")


def _require_fraction(what: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"{what} is {value}; give a fraction in [0, 1].")
