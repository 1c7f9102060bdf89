"""Masters keep what half precision would lose."""

import copy

import pytest
import torch

from everlearn.errors import ConfigError
from everlearn.models.optim import AdamW, Muon, Optimiser, Recipe


@pytest.mark.parametrize("ramp", [((0, 8, 64),), ((9, 8, 64), (9, 8, 64)), ((9, 0, 64),), ((9, 8, 1),)])
def test_a_ramp_that_goes_back_or_has_no_rows_is_refused(ramp: tuple[tuple[int, int, int], ...]) -> None:
    with pytest.raises(ConfigError, match="tokens rise from 1"):
        Recipe(ramp=ramp)


def test_a_ramp_is_for_one_epoch() -> None:
    with pytest.raises(ConfigError, match="one epoch"):
        Recipe(ramp=((9, 8, 64),), epochs=2)


def test_the_rate_depends_on_how_much_learns_unless_it_is_given() -> None:
    assert AdamW().rate(5, 100) == 5e-4
    assert AdamW().rate(100, 100) == 2e-5
    assert AdamW(learning_rate=0.1).rate(5, 100) == 0.1


def test_small_steps_in_half_precision_add_up() -> None:
    weight = torch.ones(4, dtype=torch.bfloat16, requires_grad=True)
    optimiser = Optimiser(AdamW(clip=None), {"w": weight}, rate=1e-4)
    for _ in range(100):
        optimiser.step({"w": torch.ones(4)}, 1.0)
        optimiser.publish()
    assert optimiser.values()["w"].tolist() == pytest.approx([0.99] * 4, abs=1e-4)
    assert weight.tolist() == pytest.approx([0.99] * 4, abs=4e-3)


def test_full_precision_parameters_are_their_own_masters() -> None:
    weight = torch.ones(2, dtype=torch.float64, requires_grad=True)
    optimiser = Optimiser(AdamW(), {"w": weight}, rate=1e-2)
    assert optimiser.masters["w"] is weight


def test_gradients_are_taken_and_cleared() -> None:
    weight = torch.ones(2, dtype=torch.float64, requires_grad=True)
    idle = torch.ones(1, dtype=torch.float64, requires_grad=True)
    optimiser = Optimiser(AdamW(), {"w": weight, "idle": idle}, rate=1e-2)
    (3 * weight.sum()).backward()  # type: ignore[no-untyped-call]
    grads = optimiser.take_grads()
    assert {n: g.tolist() for n, g in grads.items()} == {"w": [3.0, 3.0], "idle": [0.0]}
    assert weight.grad is None
    weight.square().sum().backward()  # type: ignore[no-untyped-call]
    assert {n: g.tolist() for n, g in optimiser.take_grads(all_names=False).items()} == {"w": [2.0, 2.0]}
    assert optimiser.take_grads(all_names=False) == {}


@pytest.mark.parametrize("spare", [True, False])
def test_clipping_scales_the_whole_gradient(spare: bool) -> None:
    optimiser, given = Optimiser(AdamW(clip=1.0), {"w": torch.zeros(2, requires_grad=True)}, rate=1e-2), [3.0, 4.0]
    grads = {"w": torch.tensor(given)}
    clipped, norm = optimiser.clip(grads, spare)
    assert norm == pytest.approx(5.0)
    assert clipped["w"].tolist() == pytest.approx([0.6, 0.8])
    assert grads["w"].tolist() == (given if spare else clipped["w"].tolist())
    assert optimiser.clip({"w": torch.tensor([0.3, 0.4])})[0]["w"].tolist() == pytest.approx([0.3, 0.4])


def test_a_restored_optimiser_takes_the_same_steps() -> None:
    def one(state: object = None) -> tuple[Optimiser, list[float]]:
        weight = torch.ones(2, dtype=torch.float64, requires_grad=True)
        optimiser = Optimiser(AdamW(), {"w": weight}, rate=1e-2)
        if state:
            optimiser.load_state(state)
        optimiser.step({"w": torch.tensor([1.0, -2.0], dtype=torch.float64)}, 0.5)
        return optimiser, optimiser.values()["w"].tolist()

    first, _ = one()
    state = first.state()
    first.step({"w": torch.tensor([1.0, -2.0], dtype=torch.float64)}, 0.5)
    assert one(state)[1] == first.values()["w"].tolist()


def test_muon_moves_a_matrix_along_its_momentum_made_orthogonal() -> None:
    weight = torch.zeros(4, 6, dtype=torch.float64, requires_grad=True)
    optimiser = Optimiser(Muon(clip=None), {"w": weight}, rate=0.5)
    grad = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    optimiser.step({"w": grad}, 1.0)
    u, _, v = torch.linalg.svd(grad, full_matrices=False)
    moved = -weight.detach() / (0.5 * 0.2 * 6**0.5)  # eq. 4 of arXiv:2502.16982
    cosine = float((moved * (u @ v)).sum() / moved.norm() / (u @ v).norm())
    assert cosine > 0.97
    assert torch.linalg.svdvals(moved).tolist() == pytest.approx([1] * 4, abs=0.35)  # Newton-Schulz stops near 1


def test_muon_leaves_embeddings_and_vectors_to_adamw() -> None:
    shapes = {"inner": (4, 6), "embedding": (5, 6), "bias": (6,)}
    rng = torch.Generator().manual_seed(0)
    weights = {name: torch.zeros(shape, requires_grad=True) for name, shape in shapes.items()}
    grads = {name: torch.randn(shape, generator=rng) for name, shape in shapes.items()}
    optimiser = Optimiser(Muon(), weights, rate=0.1, embeddings={"embedding"})
    optimiser.step(grads, 1.0)
    for name in ("embedding", "bias"):
        torch.testing.assert_close(weights[name].detach(), -0.1 * grads[name].sign(), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(weights["inner"].detach(), -0.1 * grads["inner"].sign(), atol=1e-2)
    kept = copy.deepcopy(optimiser.state())
    other = Optimiser(Muon(), {n: torch.zeros(s, requires_grad=True) for n, s in shapes.items()}, 0.1, {"embedding"})
    other.load_state(kept)
    for each in (optimiser, other):
        each.step(grads, 1.0)
    assert all(torch.equal(a, b) for a, b in zip(optimiser.values().values(), other.values().values(), strict=True))


def test_moments_of_eight_bits_are_refused_on_a_processor() -> None:
    with pytest.raises(ConfigError, match="8 bits are for CUDA"):
        Optimiser(AdamW(bits=8), {"w": torch.zeros(2, requires_grad=True)}, 0.1)
