"""The field's measures of a matrix, each by its definition: there is no bare backward transfer here.

R[t, i] is the score of the version after experience t on experience i, both counted from 1 to T; R[0, i] is the
untouched base model's. A definition is a function of `Cells` that works on any number of leading dimensions, and
gives NaN exactly where a cell that its formula reads is NaN.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from everlearn.statistics import Scores


@dataclass(frozen=True)
class Cells:
    """What a definition may read, with NaN for what was not measured.

    Args:
        learned: (..., T + 1, T), R with the base model's row first.
        single: (..., T), on each experience, the score of a model trained on that one alone.
        joint: (..., T), on each experience, the score of one model trained on all together.
        counts: (..., T), number of test items of each experience.
        general: (..., T + 1, M), the scores on M general abilities, G[t, m], by version.
    """

    learned: Scores
    single: Scores
    joint: Scores
    counts: Scores
    general: Scores

    @property
    def last(self) -> Scores:
        """(..., T), R[T, i]."""
        return self.learned[..., -1, :]

    @property
    def diagonal(self) -> Scores:
        """(..., T), R[i, i]: each experience just after it was learned."""
        return np.diagonal(self.learned[..., 1:, :], axis1=-2, axis2=-1)


Definition = Callable[[Cells], Scores]


def _mean(scores: Scores) -> Scores:
    return np.asarray(scores.mean(axis=-1))


def accuracy(cells: Cells) -> Scores:
    """ACC = 1/T sum_i R[T, i] (Lopez-Paz & Ranzato 2017, arXiv:1706.08840): macro, every experience weighs the same."""
    return _mean(cells.last)


def accuracy_micro(cells: Cells) -> Scores:
    """sum_i n_i R[T, i] / sum_i n_i: every test item weighs the same, as in the O-LoRA authors' logs."""
    return _mean(cells.counts * cells.last) / _mean(cells.counts)


def average_incremental_accuracy(cells: Cells) -> Scores:
    """1/T sum_t 1/t sum_{i<=t} R[t, i]: ACC averaged over the stream (Rebuffi et al. 2017, arXiv:1611.07725)."""
    steps = range(1, cells.learned.shape[-1] + 1)
    return _mean(np.stack([_mean(cells.learned[..., t, :t]) for t in steps], axis=-1))


def learning_accuracy(cells: Cells) -> Scores:
    """LA = 1/T sum_i R[i, i]: how well each was learned at all (Riemer et al. 2019, arXiv:1810.11910)."""
    return _mean(cells.diagonal)


def backward_transfer_lopez_paz(cells: Cells) -> Scores:
    """BWT = 1/(T-1) sum_{i<T} (R[T, i] - R[i, i]); negative is forgetting (arXiv:1706.08840, eq. 3)."""
    return _mean((cells.last - cells.diagonal)[..., :-1])


def backward_transfer_sapt(cells: Cells) -> Scores:
    """1/T sum_{i<=T} (R[T, i] - R[i, i]): the last term is 0, yet counted (SAPT's score.py, arXiv:2401.08295)."""
    return _mean(cells.last - cells.diagonal)


def backward_transfer_trace(cells: Cells) -> Scores:
    """1/t sum_{i<=t} (R[t, i] - R[i, i]) at t = T: TRACE's text (arXiv:2310.06762); equals SAPT's there."""
    return backward_transfer_sapt(cells)


def backward_transfer_clipped(cells: Cells) -> Scores:
    """1/T sum_{i<=T} min(R[T, i] - R[i, i], 0): gains do not make up for losses (TreeLoRA's collect_results.py)."""
    return _mean(np.minimum(cells.last - cells.diagonal, 0))


def forward_transfer_lopez_paz(cells: Cells) -> Scores:
    """FWT = 1/(T-1) sum_{i>=2} (R[i-1, i] - R[0, i]) (arXiv:1706.08840, eq. 4).

    Differs from the paper: the reference is the untouched pre-trained model, not one with random weights.
    """
    before = np.diagonal(cells.learned[..., 1:-1, 1:], axis1=-2, axis2=-1)
    return _mean(before - cells.learned[..., 0, 1:])


def forward_transfer_sapt(cells: Cells) -> Scores:
    """1/T sum_i R[i, i] - 1/T sum_i S[i], S the single-task references (SAPT's score.py, arXiv:2401.08295).

    Differs from the code: the references are measured, where the code has the number 50.94.
    """
    return _mean(cells.diagonal) - _mean(cells.single)


def forgetting_chaudhry(cells: Cells) -> Scores:
    """F = 1/(T-1) sum_{i<T} (max_{i<=l<T} R[l, i] - R[T, i]); positive is forgetting (arXiv:1801.10112)."""
    seen = np.tri(cells.learned.shape[-1], dtype=bool)[:-1, :-1]
    best = np.where(seen, cells.learned[..., 1:-1, :-1], -np.inf).max(axis=-2)
    return _mean(best - cells.last[..., :-1])


def forgetting_signed_cgl(cells: Cells) -> Scores:
    """FM = 1/(T-1) sum_{i<T} (R[T, i] - R[i, i]): called forgetting, yet negative is forgetting (arXiv:2507.05386)."""
    return backward_transfer_lopez_paz(cells)


def intransigence_joint_chaudhry(cells: Cells) -> Scores:
    """1/T sum_i (J[i] - R[i, i]): what is not learned for the sake of what was (arXiv:1801.10112).

    Differs from the paper: one reference J trained jointly on all T, not one for each i trained on the first i.
    """
    return _mean(cells.joint - cells.diagonal)


def intransigence_single(cells: Cells) -> Scores:
    """1/T sum_i (S[i] - R[i, i]): intransigence against models trained on one experience alone."""
    return _mean(cells.single - cells.diagonal)


def general_ability_delta_trace(cells: Cells) -> Scores:
    """GAD = 1/M sum_m (G[T, m] - G[0, m]): general ability gained or lost (TRACE, arXiv:2310.06762)."""
    return _mean(cells.general[..., -1, :] - cells.general[..., 0, :])


DEFINITIONS: tuple[Definition, ...] = (
    accuracy,
    accuracy_micro,
    average_incremental_accuracy,
    learning_accuracy,
    backward_transfer_lopez_paz,
    backward_transfer_sapt,
    backward_transfer_trace,
    backward_transfer_clipped,
    forward_transfer_lopez_paz,
    forward_transfer_sapt,
    forgetting_chaudhry,
    forgetting_signed_cgl,
    intransigence_joint_chaudhry,
    intransigence_single,
    general_ability_delta_trace,
)
"""All of them, in the order of a report."""

AFTER_TWO: tuple[Definition, ...] = (
    backward_transfer_lopez_paz,
    forward_transfer_lopez_paz,
    forgetting_chaudhry,
    forgetting_signed_cgl,
)
"""Those that divide by T - 1, so that one experience is not enough."""
