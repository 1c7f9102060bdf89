"""Sums, maxima and arcs of task vectors, on weights of two numbers."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from everlearn.errors import ConfigError
from everlearn.merge_rules import Merging
from everlearn.method import Context, Method
from everlearn.methods.task_vectors import OPCM, SLERP, MagMax, TaskArithmetic
from everlearn.testing.toys import toy_stream
from tests.methods.two_numbers import Numbers, after_all, numbers


def test_task_arithmetic_by_hand() -> None:
    # 1 + 0.5 * (1 - 3) = 0; 2 + 0.5 * (4 + 2) = 5.
    assert after_all(TaskArithmetic(scale=0.5), (1.0, 2.0), (2.0, 6.0), (-2.0, 4.0)) == [0.0, 5.0]


def test_a_negative_scale_unlearns() -> None:
    # 1 - (3 - 1) = -1; 2 - (2 - 2) = 2.
    assert after_all(TaskArithmetic(scale=-1.0), (1.0, 2.0), (3.0, 2.0)) == [-1.0, 2.0]


def test_magmax_by_hand() -> None:
    # Changes from (1, 2): (1, -1), (-3, 0.5), (3, 1): the largest are 3 (the later of two alike) and the later 1.
    assert after_all(MagMax(scale=0.5), (1.0, 2.0), (2.0, 1.0), (-2.0, 2.5), (4.0, 3.0)) == [2.5, 2.5]


def test_opcm_by_hand() -> None:
    # tau_1 = diag(3, 1), tau_2 = all 4: the diagonal goes, so the sum is (3, 4; 4, 1) with square norm 42.
    # Norms of the experts are sqrt(10) and 8, their mean (3.1623 + 8) / 2 = 5.5811; 5.5811 / sqrt(42) = 0.86119.
    first = torch.tensor([[3.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    second = torch.full((2, 2), 4.0, dtype=torch.float64)
    model = Numbers(torch.zeros(2, 2, dtype=torch.float64))
    merged = after_each(OPCM(), model, first, second)
    torch.testing.assert_close(merged[0], first)
    factor = (10**0.5 + 8) / 2 / 42**0.5
    torch.testing.assert_close(merged[1], factor * torch.tensor([[3.0, 4.0], [4.0, 1.0]], dtype=torch.float64))


def test_opcm_adds_vectors_up() -> None:
    # (2, 0) + (0, 2): norm sqrt(8), experts' mean 2.
    assert after_all(OPCM(), (0.0, 0.0), (2.0, 0.0), (0.0, 2.0)) == pytest.approx([2**0.5, 2**0.5])


def test_slerp_by_hand() -> None:
    # From (1, 0) to (0, 3), a right angle, at t = 1/2: sqrt(1/2) of both.
    assert after_all(SLERP(), (1.0, 0.0), (0.0, 3.0)) == pytest.approx([0.5**0.5, 3 * 0.5**0.5])
    # A line where the ends are parallel.
    assert after_all(SLERP(mixing=0.25), (1.0, 2.0), (3.0, 6.0)) == pytest.approx([1.5, 3.0])


def test_an_arc_has_two_ends() -> None:
    with pytest.raises(ConfigError, match="an arc has two ends, and these are 3 models"):
        SLERP().gather([], [{}, {}])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: MagMax(begins="merged"), "begins is"),
        (lambda: OPCM(share=1.5), "share is in"),
        (lambda: SLERP(mixing=-0.1), "mixing is in"),
    ],
)
def test_numbers_without_a_meaning_are_refused(make: type[Method], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()


def after_each(method: Merging, model: Numbers, *trained: Tensor) -> list[Tensor]:
    ctx, memory, merged = Context(model, toy_stream().experiences[0]), None, []  # type: ignore[arg-type]
    for seen, weight in enumerate(trained):
        memory = method.begin(memory, replace(ctx, seen=seen))
        here = replace(ctx, seen=seen, before=numbers(model), after={"w": weight})
        memory = method.end(memory, here)
        merged.append(method.merge(memory, here.before, here.after, here)["w"])
    return merged
