"""What a matrix says: the field's measures, each with its n, its interval, and the cells it lacks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from everlearn.definitions import AFTER_TWO, DEFINITIONS, Cells, Definition, general_ability_delta_trace
from everlearn.matrix import Matrix
from everlearn.sampling import USUAL, Sampling, measured, resampled
from everlearn.statistics import Scores, mean_interval, percentile_interval
from everlearn.types import Outcome


@dataclass(frozen=True)
class Measure:
    """One number that a matrix shows.

    Args:
        name: its definition's; a cell's, R[t,i]; or a general ability's delta.
        value: in the matrix's unit; None where a cell it needs is missing.
        low: lower end of its interval over test items; None where outcomes are not known.
        high: upper end.
        n: number of test items behind it; 0 where that is not known.
        missing: the cells it needs and has not: R[t,i], S[i] (single), J[i] (joint), n[i] (counts), G[t,m] (general).
        note: why it is absent, or has no interval.
    """

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    missing: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Question:
    """A definition asked of one matrix.

    Args:
        name: of the measure.
        definition: what it is.
        n: number of test items behind it; 0 where that is not known.
    """

    name: str
    definition: Definition
    n: int


LETTERS = {"learned": "R", "single": "S", "joint": "J", "counts": "n", "general": "G"}


def _label(part: str, index: Sequence[int]) -> str:
    """The cell's name in formulas, where experiences and abilities count from 1 and rows from 0."""
    return f"{LETTERS[part]}[{','.join(str(i) for i in (*index[:-1], index[-1] + 1))}]"


def missing(definition: Definition, cells: Cells) -> tuple[str, ...]:
    """The cells that the definition reads and that were not measured, by their names.

    Found by trial, so that it cannot part from the formula: a cell is read if the value is NaN when it alone is.
    """
    parts: dict[str, Scores] = {part: getattr(cells, part) for part in LETTERS}
    whole = Cells(**{part: np.ones_like(scores) for part, scores in parts.items()})
    found = []
    for part, scores in parts.items():
        for index in np.argwhere(np.isnan(scores)):
            holed = np.ones_like(scores)
            holed[tuple(index)] = np.nan
            if np.isnan(definition(replace(whole, **{part: holed}))):
                found.append(_label(part, [int(i) for i in index]))
    return tuple(found)


def interval(draws: Scores, level: float) -> tuple[float, float] | tuple[None, None]:
    """The percentile interval, or none where an outcome behind the draws is not known."""
    return (None, None) if np.isnan(draws).any() else percentile_interval(draws, level)


def _ability_delta(index: int) -> Definition:
    return lambda cells: cells.general[..., -1, index] - cells.general[..., 0, index]


def questions(matrix: Matrix) -> list[Question]:
    """Every definition, and the delta of each general ability."""
    items = sum(matrix.count(i) or 0 for i in range(matrix.learned))
    asked = [Question(d.__name__, d, items) for d in DEFINITIONS if d is not general_ability_delta_trace]
    suite = matrix.general
    abilities = suite.names if suite is not None else ()
    counts = [suite.count(m) or 0 for m in range(len(abilities))] if suite is not None else []
    asked.append(Question("general_ability_delta_trace", general_ability_delta_trace, sum(counts)))
    for m, ability in enumerate(abilities):
        asked.append(Question(f"general_ability_delta_trace[{ability}]", _ability_delta(m), counts[m]))
    return asked


def too_early(definition: Definition, learned: int) -> str:
    """Why the definition has no value yet; empty where it has."""
    least = 2 if definition in AFTER_TWO else 1
    return f"needs {least} learned experiences, there are {learned}" if learned < least else ""


def _measure(question: Question, cells: Cells, draws: Cells, level: float) -> Measure:
    value = float(question.definition(cells))
    if np.isnan(value):
        absent = missing(question.definition, cells)
        return Measure(question.name, None, n=question.n, missing=absent, note="cells are missing")
    low, high = interval(question.definition(draws), level)
    note = "" if low is not None else "no interval: outcomes are not known"
    return Measure(question.name, value, low, high, question.n, note=note)


def summary(matrix: Matrix, sampling: Sampling = USUAL) -> tuple[Measure, ...]:
    """Every definition on the experiences learned so far; one that cannot be had is there without a value.

    Intervals are percentile intervals of a bootstrap over test items: they say how the number would vary on other
    items, not on other seeds (for which see `everlearn.statistics.mean_over_seeds`). Where a definition takes a maximum
    or clips (forgetting, clipped transfer), noise alone moves it one way, and so are its draws moved.
    """
    asked = [(question, too_early(question.definition, matrix.learned)) for question in questions(matrix)]
    if not matrix.learned:
        return tuple(Measure(question.name, None, note=early) for question, early in asked)
    cells, draws = measured(matrix), resampled(matrix, sampling)
    return tuple(
        Measure(question.name, None, n=question.n, note=early)
        if early
        else _measure(question, cells, draws, sampling.level)
        for question, early in asked
    )


def _cell(matrix: Matrix, t: int, column: int, sampling: Sampling) -> Measure:
    name, row = f"R[{t},{column + 1}]", matrix.rows[t]
    value, items = row.scores[column], row.items(column)
    if value is None:
        return Measure(name, None, missing=(name,), note="not measured")
    if not items:
        return Measure(name, value, n=matrix.count(column) or 0, note="no interval: outcomes are not known")
    low, high = mean_interval([o.score for o in items], sampling.level, sampling.resamples, sampling.seed)
    return Measure(name, value, low, high, len(items))


def cells(matrix: Matrix, sampling: Sampling = USUAL) -> tuple[tuple[Measure, ...], ...]:
    """R itself, row by row from the base model's: Wilson's interval for right or wrong, else the bootstrap's."""
    columns = range(len(matrix.names))
    return tuple(tuple(_cell(matrix, t, i, sampling) for i in columns) for t in range(len(matrix.rows)))


def routing_accuracy(matrix: Matrix, sampling: Sampling = USUAL) -> tuple[Measure, ...]:
    """For each experience, the fraction of its prompts that the last version takes for that experience.

    Empty where no version infers experiences. One that was not learned has no value: it can be taken for others alone.
    Values are fractions, whatever the matrix's unit, with Wilson's intervals.
    """
    last = [matrix.rows[-1].items(column) for column in range(len(matrix.names))]
    if not any(outcome.routed for items in last for outcome in items):
        return ()
    return tuple(_routing(matrix, column, items, sampling) for column, items in enumerate(last))


def _routing(matrix: Matrix, column: int, items: Sequence[Outcome], sampling: Sampling) -> Measure:
    name = f"routing_accuracy[{matrix.names[column]}]"
    right = [float(outcome.routed == matrix.names[column]) for outcome in items if outcome.routed]
    if column >= matrix.learned or not right:
        return Measure(name, None, note="it was not learned" if column >= matrix.learned else "not measured")
    low, high = mean_interval(right, sampling.level, sampling.resamples, sampling.seed)
    return Measure(name, sum(right) / len(right), low, high, len(right))
