"""What a grid shows: each method over its seeds, and what it has more than the first one, tested in pairs.

Two questions are asked of a difference, and they are not the same. Would it stand on other test items? The same items
are paired under both methods (permutation test), their scores first averaged over the seeds. Would it stand with other
seeds? The differences of the seeds, each between two runs that share it, are held against 0 (paired t-test).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from everlearn.comparison import Difference, compare
from everlearn.definitions import DEFINITIONS
from everlearn.matrix import Matrix, Row
from everlearn.measures import too_early
from everlearn.sampling import measured
from everlearn.statistics import Estimate, mean_over_seeds, paired_t
from everlearn.types import Outcome
from everlearn.wording import ABILITY

SHOWN = (
    "accuracy",
    "learning_accuracy",
    "backward_transfer_lopez_paz",
    "forward_transfer_lopez_paz",
    "forgetting_chaudhry",
    ABILITY,
    "intransigence_joint_chaudhry",
    "intransigence_single",
)
"""The measures of the table, by their definitions' names."""


@dataclass(frozen=True)
class Cost:
    """What a run took and keeps.

    Args:
        minutes: inside optimiser steps.
        kept: bytes on disk of the last version: weights that differ from the base model, and the method's memory.
        peak: most bytes that the process held in memory while it ran, its model among them; None where unknown.
    """

    minutes: float
    kept: float
    peak: float | None = None


@dataclass(frozen=True)
class Standing:
    """One method over its seeds.

    Args:
        name: in the grid.
        method: as an expression.
        seeds: those whose runs are finished.
        values: each measure's value, by seed; a measure that cannot be had is not there.
        measures: their means with t-intervals; empty where no run is finished.
        minutes: inside optimiser steps.
        kept: bytes of the last version on disk.
    """

    name: str
    method: str
    seeds: tuple[int, ...]
    values: Mapping[str, tuple[float, ...]]
    measures: Mapping[str, Estimate]
    minutes: Estimate | None = None
    kept: Estimate | None = None


@dataclass(frozen=True)
class Contrast:
    """What a method has more than the first one, by one measure.

    Args:
        name: of the method.
        measure: its definition's name.
        seeds: that both methods have.
        change: the mean of the seeds' differences, with its t-interval.
        p_seeds: two-sided, from the paired t-test over seeds; None for one seed, or where all differ alike.
        p_items: two-sided, from the paired permutation test on the same items, averaged over the seeds.
        n: number of test items behind it.
        each: the difference of each seed, with the interval and the p of its own items.
    """

    name: str
    measure: str
    seeds: tuple[int, ...]
    change: Estimate
    p_seeds: float | None
    p_items: float | None
    n: int
    each: tuple[Difference, ...]


def values(matrix: Matrix) -> dict[str, float]:
    """The measures of the table that a matrix has, by name.

    Args:
        matrix: of a finished run.
    """
    cells, asked = measured(matrix), {d.__name__: d for d in DEFINITIONS if not too_early(d, matrix.learned)}
    found = {name: float(asked[name](cells)) for name in SHOWN if name in asked}
    return {name: value for name, value in found.items() if not math.isnan(value)}


def standing(name: str, method: str, matrices: Mapping[int, Matrix], costs: Sequence[Cost]) -> Standing:
    """One method over its seeds.

    Args:
        name: in the grid.
        method: as an expression.
        matrices: of the finished runs, by seed.
        costs: of the same runs.
    """
    found = [values(matrix) for matrix in matrices.values()]
    known = [measure for measure in SHOWN if found and all(measure in value for value in found)]
    by_measure = {measure: tuple(value[measure] for value in found) for measure in known}
    means = {measure: mean_over_seeds(seeds) for measure, seeds in by_measure.items()}
    if not costs:
        return Standing(name, method, (), {}, {})
    minutes, kept = (mean_over_seeds([getattr(cost, part) for cost in costs]) for part in ("minutes", "kept"))
    return Standing(name, method, tuple(matrices), by_measure, means, minutes, kept)


def contrasts(name: str, first: Mapping[int, Matrix], other: Mapping[int, Matrix]) -> tuple[Contrast, ...]:
    """What a method has more than the first one, measure by measure.

    Args:
        name: of the method.
        first: the first method's finished runs, by seed.
        other: the method's.

    Raises:
        DataError: if their test items differ.
    """
    seeds = tuple(seed for seed in first if seed in other)
    if not seeds:
        return ()
    each = [{d.name: d for d in compare(first[seed], other[seed]).measures} for seed in seeds]
    means = compare(averaged([first[seed] for seed in seeds]), averaged([other[seed] for seed in seeds]))
    items = {d.name: d for d in means.measures}
    found = []
    for measure in SHOWN:
        differences = tuple(by_name[measure] for by_name in each if measure in by_name)
        changes = [d.value for d in differences if d.value is not None]
        if len(changes) == len(seeds):
            change, p, n = mean_over_seeds(changes), items[measure].p, items[measure].n
            found.append(Contrast(name, measure, seeds, change, paired_t(change), p, n, differences))
    return tuple(found)


def against_in_context(first: Mapping[int, Matrix]) -> tuple[Contrast, ...]:
    """What the base model, asked in context, has more than the first method after its last experience: ACC alone.

    Args:
        first: the first method's finished runs, by seed, with the reference of the same seed where it was measured.
    """
    asked = {
        seed: replace(matrix, rows=(*matrix.rows[:-1], matrix.in_context))
        for seed, matrix in first.items()
        if matrix.in_context is not None
    }
    return tuple(c for c in contrasts("in_context", first, asked) if c.measure == "accuracy")


def averaged(matrices: Sequence[Matrix]) -> Matrix:
    """One matrix whose items have their mean scores over runs with different seeds.

    Its scores are the means of the runs' scores. A definition that takes a maximum (forgetting) gives another value on
    it than the mean of the runs' values.

    Args:
        matrices: of the same stream, equally far, on the same test items; one at least.
    """
    first = matrices[0]
    rows = [_mean(rows) for rows in zip(*(m.rows for m in matrices), strict=True)]
    joint, single = _shared([m.joint for m in matrices]), _shared([m.single for m in matrices])
    shown = _shared([m.in_context for m in matrices])
    found = replace(first, rows=tuple(rows), repeat=None, joint=joint, single=single, in_context=shown)
    general = [m.general for m in matrices if m.general is not None]
    return replace(found, general=averaged(general)) if general else found


def _shared(rows: Sequence[Row | None]) -> Row | None:
    """The mean of a reference that all runs have."""
    known = [row for row in rows if row is not None]
    return _mean(known) if len(known) == len(rows) else None


def _mean(rows: Sequence[Row]) -> Row:
    columns = range(len(rows[0].scores))
    known = [[row.scores[column] for row in rows] for column in columns]
    scores = tuple(fmean(s for s in column if s is not None) if None not in column else None for column in known)
    outcomes = tuple(
        tuple(_mean_outcome(same) for same in zip(*(row.items(column) for row in rows), strict=True))
        for column in columns
    )
    return Row(scores, outcomes)


def _mean_outcome(outcomes: Sequence[Outcome]) -> Outcome:
    return Outcome(outcomes[0].key, fmean(outcome.score for outcome in outcomes))
