"""InfLoRA's A lies off the subspace of old inputs, and what its B learns leaves old inputs' outputs alone."""

import math

import pytest
import torch

from everlearn.errors import ConfigError
from everlearn.methods.inflora import InfLoRA
from everlearn.models.bank import banks
from everlearn.models.subspace import Subspace
from everlearn.types import Memory
from tests.methods import summed

METHODS = [
    InfLoRA(3, energy=0.7, last_energy=0.9, samples=8),
    InfLoRA(3, targets="all-linear", energy=0.3, last_energy=0.4, samples=8),
    InfLoRA(3, energy=0.5, last_energy=0.9, samples=8, formula="repo"),
]


def subspace(memory: Memory, name: str) -> Subspace:
    return Subspace(memory["old"][name]["basis"], memory["old"][name]["complement"])


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_folding_does_not_change_the_function(method: InfLoRA) -> None:
    summed.folds_exactly(method)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_new_adapter_at_first_does_not_change_the_function(method: InfLoRA) -> None:
    summed.begins_where_the_last_experience_ended(method)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_new_experience_changes_no_bit_of_old_adapters(method: InfLoRA) -> None:
    summed.leaves_old_adapters_alone(method)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_what_a_new_adapter_reads_lies_off_the_subspace_of_old_inputs(method: InfLoRA) -> None:
    _, before = summed.learned(method, 1)
    model, after = summed.learned(method, 2)
    for name, bank in banks(model.module).items():
        old, new = subspace(before.memory[0], name), bank.A[1]
        assert (new - old.off(new.T).T).abs().max() < 1e-10
        assert torch.equal(bank.A[1], after.memory[0]["A"][name][1])
        assert not bank.A[1].requires_grad
        size = 1 / math.sqrt(3) if method.formula == "repo" else 1.0
        assert torch.allclose(new @ new.T, size**2 * torch.eye(3, dtype=torch.float64), atol=1e-10)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_what_is_learned_leaves_the_outputs_for_old_inputs_alone(method: InfLoRA) -> None:
    first, before = summed.learned(method, 1)
    second, _ = summed.learned(method, 2)
    torch.manual_seed(0)
    for name, bank in banks(second.module).items():
        x = torch.randn(bank.in_features, 5, dtype=torch.float64)
        inside = (x - subspace(before.memory[0], name).off(x)).T
        outside = subspace(before.memory[0], name).off(x).T
        with torch.no_grad():
            was, now = (banks(model.module)[name] for model in (first, second))
            assert (was(inside) - now(inside)).abs().max() < 1e-10
            assert (was(outside) - now(outside)).abs().max() > 1e-5


def test_the_subspace_grows_from_one_experience_to_the_next() -> None:
    method = InfLoRA(3, energy=0.7, last_energy=0.9, samples=8)
    sizes = []
    for count in (1, 2, 3):
        model, state = summed.learned(method, count)
        sizes.append(
            [int(subspace(state.memory[0], n).off(torch.eye(32).double()).trace().round()) for n in banks(model.module)]
        )
    assert all(a > b for a, b in zip(sizes[0], sizes[1], strict=True))
    assert all(a >= b for a, b in zip(sizes[1], sizes[2], strict=True))


def test_the_threshold_rises_and_stays() -> None:
    method = InfLoRA(energy=0.5, last_energy=1.0, experiences=5)
    assert [method.threshold(count) for count in (0, 1, 4, 5, 9)] == pytest.approx([0.5, 0.6, 0.9, 0.9, 0.9])


def test_where_no_direction_is_left_nothing_is_learned() -> None:
    method = InfLoRA(3, energy=1.0, last_energy=1.0, samples=12)
    _, state = summed.learned(method, 2)
    model, _ = summed.learned(method, 3)
    for name, bank in banks(model.module).items():
        if not subspace(state.memory[0], name).basis.shape[1]:
            assert not bank.A[2].any()
            assert not bank.B[2].any()
            break
    else:
        pytest.fail("some layer's inputs fill its whole space")


def test_numbers_without_a_meaning_are_refused() -> None:
    for wrong in ({"rank": 0}, {"energy": 0.9, "last_energy": 0.8}, {"last_energy": 1.5}, {"samples": 0}):
        with pytest.raises(ConfigError, match="energy <= last_energy"):
            InfLoRA(**wrong)
