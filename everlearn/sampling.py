"""From a matrix to the cells that definitions read: as measured, resampled, and swapped between two runs.

Test items are drawn within each experience (stratified), and together for all versions, which were scored on the
same items: what is common to two versions cancels in their difference.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from everlearn.definitions import Cells
from everlearn.errors import DataError
from everlearn.matrix import Matrix, Row
from everlearn.statistics import Scores, resampled_means, swapped_means
from everlearn.types import Outcome


@dataclass(frozen=True)
class Sampling:
    """How intervals and tests are drawn; the same values give the same numbers.

    Args:
        level: of the intervals.
        resamples: bootstrap resamples, and permutations of a test.
        seed: of the draws.
    """

    level: float = 0.95
    resamples: int = 1000
    seed: int = 0


USUAL = Sampling()
"""What intervals and tests are drawn by unless one says otherwise."""


@dataclass(frozen=True)
class Paired:
    """Two runs' cells, each a pair of before and after.

    Args:
        measured: as they are.
        resampled: (B, ...), means over the same resampled items in both runs.
        swapped: (B, ...), means after items were swapped between the runs by chance.
    """

    measured: tuple[Cells, Cells]
    resampled: tuple[Cells, Cells]
    swapped: tuple[Cells, Cells]


@dataclass(frozen=True)
class _Column:
    """One experience, or one general ability, under all versions; None stands for a row that there is not."""

    name: str
    index: int
    rows: tuple[Row | None, ...]

    @property
    def items(self) -> tuple[Outcome, ...]:
        return next((r.items(self.index) for r in self.rows if r is not None and r.items(self.index)), ())

    def means(self) -> Scores:
        scores = [None if row is None else row.scores[self.index] for row in self.rows]
        return np.array([np.nan if score is None else score for score in scores])

    def outcomes(self) -> Scores:
        """(V, n) with NaN for versions without outcomes; n is at least 1."""
        blank = [np.nan] * max(1, len(self.items))
        cells = [() if row is None else row.items(self.index) for row in self.rows]
        return np.array([[o.score for o in cell] or blank for cell in cells])


def _columns(matrix: Matrix) -> list[_Column]:
    """The experiences learned so far, then the general abilities."""
    rows = (*matrix.rows, matrix.single, matrix.joint)
    columns = [_Column(name, i, rows) for i, name in enumerate(matrix.names[: matrix.learned])]
    if matrix.general is not None:
        columns += [_Column(name, m, matrix.general.rows) for m, name in enumerate(matrix.general.names)]
    return columns


def _assemble(matrix: Matrix, means: Sequence[Scores]) -> Cells:
    """Cells out of each column's means (..., V)."""
    size = matrix.learned
    tasks = np.stack(means[:size], axis=-1)
    unmeasured = np.full((*tasks.shape[:-2], size + 1, 1), np.nan)
    counts = [matrix.count(i) for i in range(size)]
    return Cells(
        learned=tasks[..., : size + 1, :],
        single=tasks[..., size + 1, :],
        joint=tasks[..., size + 2, :],
        counts=np.array([np.nan if count is None else count for count in counts]),
        general=np.stack(means[size:], axis=-1) if len(means) > size else unmeasured,
    )


def measured(matrix: Matrix) -> Cells:
    """The matrix's own scores; at least one experience has to be learned."""
    return _assemble(matrix, [column.means() for column in _columns(matrix)])


def resampled(matrix: Matrix, sampling: Sampling) -> Cells:
    """The scores as they might have come out on other test items, (B, ...); NaN where outcomes are not known."""
    rng = np.random.default_rng(sampling.seed)
    columns = [column.outcomes() for column in _columns(matrix)]
    return _assemble(matrix, [resampled_means(scores, sampling.resamples, rng) for scores in columns])


def matching(name: str, before: Sequence[Outcome], after: Sequence[Outcome]) -> list[int]:
    """Where each item of the one measurement stands in the other, by its key.

    Raises:
        DataError: if the two were not measured on the same items.
    """
    if Counter(o.key for o in before) != Counter(o.key for o in after):
        raise DataError(
            f"{name}: the two were scored on unlike test items ({len(before)} and {len(after)}); a paired comparison "
            "needs the same ones: score both on the same test set."
        )
    places = defaultdict(list)
    for place in reversed(range(len(after))):
        places[after[place].key].append(place)
    return [places[o.key].pop() for o in before]


def _pair(before: _Column, after: _Column) -> tuple[Scores, Scores]:
    first, second = before.outcomes(), after.outcomes()
    if before.items and after.items:
        return first, second[:, matching(before.name, before.items, after.items)]
    # Without both runs' items there is nothing to draw from: no interval, no test.
    return np.full((len(first), 1), np.nan), np.full((len(second), 1), np.nan)


def paired(before: Matrix, after: Matrix, sampling: Sampling) -> Paired:
    """Two runs on the same test items, drawn and swapped item by item.

    Raises:
        DataError: if the runs differ in their experiences, in how many they have learned, or in their test items.
    """
    columns = list(zip(_columns(before), _columns(after), strict=False))
    unlike = before.names != after.names or before.learned != after.learned
    if unlike or any(a.name != b.name for a, b in columns) or len(_columns(before)) != len(_columns(after)):
        raise DataError(
            f"runs of unlike streams: {list(before.names)}, {before.learned} learned, and {list(after.names)}, "
            f"{after.learned} learned; compare runs with the same experiences in the same order, equally far, and "
            "with the same general suite."
        )
    if not before.learned:
        raise DataError("neither run has learned anything; there is nothing to compare yet.")
    rng = np.random.default_rng(sampling.seed)
    draws, swaps = [], []
    for a, b in columns:
        first, second = _pair(a, b)
        draws.append(resampled_means(np.vstack([first, second]), sampling.resamples, rng))
        swaps.append(swapped_means(first, second, sampling.resamples, rng))
    return Paired(
        measured=(measured(before), measured(after)),
        resampled=(
            _assemble(before, [np.split(d, 2, axis=-1)[0] for d in draws]),
            _assemble(after, [np.split(d, 2, axis=-1)[1] for d in draws]),
        ),
        swapped=(_assemble(before, [s[0] for s in swaps]), _assemble(after, [s[1] for s in swaps])),
    )
