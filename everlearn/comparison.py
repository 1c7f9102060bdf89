"""Two versions, or two runs, on the same test items: paired, so that what they share cancels."""

import math
from dataclasses import dataclass, replace

import numpy as np

from everlearn.definitions import Definition
from everlearn.errors import DataError
from everlearn.matrix import Matrix, Row
from everlearn.measures import Question, interval, missing, questions, too_early
from everlearn.sampling import USUAL, Paired, Sampling, matching, paired
from everlearn.statistics import Scores, is_binary, mcnemar, permutation_p


@dataclass(frozen=True)
class Difference:
    """What one run has more than another on the same test items.

    Args:
        name: an experience, for its score in the last row; or a definition.
        before: the first run's value; None where it cannot be had.
        after: the second run's.
        value: after - before.
        low: lower end of the paired bootstrap's interval; None where outcomes are not known.
        high: upper end.
        p: two-sided, from the paired permutation test; for an experience scored right or wrong, exact McNemar.
        n: number of test items behind it; 0 where that is not known.
        missing: the cells it needs and one of the runs has not.
    """

    name: str
    before: float | None
    after: float | None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None
    n: int = 0
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Two runs, experience by experience in the last row, and definition by definition."""

    experiences: tuple[Difference, ...]
    measures: tuple[Difference, ...]


@dataclass(frozen=True)
class Flips:
    """What equal means can hide: items lost (1 to 0) and gained (0 to 1) between two versions, counted apart.

    Args:
        name: the experience.
        n: number of test items.
        lost: items whose score fell.
        gained: items whose score rose.
        graded: whether there are scores between 0 and 1; a fall or rise of any size then counts.
    """

    name: str
    n: int
    lost: int
    gained: int
    graded: bool


@dataclass(frozen=True)
class NoiseFloor:
    """How far two measurements of the same untouched model lie apart: an effect no larger than this is none.

    Args:
        differences: |second - first| for each experience; None where one of them is missing.
        mean: of the differences; None where there is none.
        maximum: of the differences.
        flips: of each experience with outcomes.
    """

    differences: tuple[float | None, ...]
    mean: float | None
    maximum: float | None
    flips: tuple[Flips, ...]


def _scores(name: str, before: Row, after: Row, column: int) -> tuple[Scores, Scores]:
    """Both versions' scores on the same items, (n,) each; empty where one has no outcomes."""
    first, second = before.items(column), after.items(column)
    if not first or not second:
        return np.empty(0), np.empty(0)
    places = matching(name, first, second)
    return np.array([o.score for o in first]), np.array([second[p].score for p in places])


def flips(names: tuple[str, ...], before: Row, after: Row) -> tuple[Flips, ...]:
    """Items lost and gained from one version to another, for each experience where both have outcomes.

    `flips(m.names, m.diagonal, m.rows[-1])` is what was forgotten since it was learned, and
    `flips(m.names, m.rows[0], m.rows[-1])` what the whole stream changed.

    Raises:
        DataError: if the two were scored on unlike test items.
    """
    found = []
    for column, name in enumerate(names):
        first, second = _scores(name, before, after, column)
        if len(first):
            lost, gained = int((second < first).sum()), int((second > first).sum())
            found.append(Flips(name, len(first), lost, gained, graded=not is_binary(first, second)))
    return tuple(found)


def noise_floor(matrix: Matrix) -> NoiseFloor:
    """How far the base model's second measurement lies from its first.

    Raises:
        DataError: if the base model was not measured a second time.
    """
    if matrix.repeat is None:
        raise DataError("the base model was measured once only; measure it again to know the noise floor.")
    pairs = zip(matrix.rows[0].scores, matrix.repeat.scores, strict=True)
    differences = tuple(None if a is None or b is None else abs(b - a) for a, b in pairs)
    known = [d for d in differences if d is not None]
    return NoiseFloor(
        differences=differences,
        mean=math.fsum(known) / len(known) if known else None,
        maximum=max(known, default=None),
        flips=flips(matrix.names, matrix.rows[0], matrix.repeat),
    )


def _difference(question: Question, pair: Paired, level: float) -> Difference:
    definition = question.definition
    before, after = (float(definition(cells)) for cells in pair.measured)
    if math.isnan(after - before):
        lacking = dict.fromkeys(cell for cells in pair.measured for cell in missing(definition, cells))
        known = [None if math.isnan(value) else value for value in (before, after)]
        return Difference(question.name, known[0], known[1], n=question.n, missing=tuple(lacking))
    low, high = interval(definition(pair.resampled[1]) - definition(pair.resampled[0]), level)
    null = definition(pair.swapped[1]) - definition(pair.swapped[0])
    p = None if low is None else permutation_p(null, after - before)
    return Difference(question.name, before, after, after - before, low, high, p, question.n)


def _last(column: int) -> Definition:
    return lambda cells: cells.last[..., column]


def _exact(difference: Difference, before: Scores, after: Scores) -> Difference:
    """The difference with McNemar's p where the items are right or wrong."""
    if difference.p is None or not is_binary(before, after):
        return difference
    return replace(difference, p=mcnemar(int((after < before).sum()), int((after > before).sum())))


def compare(before: Matrix, after: Matrix, sampling: Sampling = USUAL) -> Comparison:
    """What the second run has more than the first: in the last row, experience by experience, and by definition.

    p-values are not corrected for their number.

    Raises:
        DataError: if the runs differ in their experiences, in how many they have learned, or in their test items.
    """
    pair = paired(before, after, sampling)
    experiences = []
    for column, name in enumerate(before.names[: before.learned]):
        question = Question(name, _last(column), before.count(column) or 0)
        outcomes = _scores(name, before.rows[-1], after.rows[-1], column)
        experiences.append(_exact(_difference(question, pair, sampling.level), *outcomes))
    asked = [q for q in questions(before) if not too_early(q.definition, before.learned)]
    return Comparison(tuple(experiences), tuple(_difference(q, pair, sampling.level) for q in asked))
