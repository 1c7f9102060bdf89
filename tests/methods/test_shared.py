"""SLAO and C-LoRA's routing by hand."""

import pytest
import torch
from torch import Tensor

from everlearn.errors import ConfigError
from everlearn.learner import Learner, learn
from everlearn.method import Context
from everlearn.methods.shared import SLAO, RoutingCLoRA, orthogonal
from everlearn.models.lora import adapters
from everlearn.models.routing_matrix import routings
from everlearn.testing.toys import toy_model, toy_stream
from tests.methods import summed

KEYS = ("k_proj", "v_proj")


def test_rows_are_made_orthonormal_from_the_first_on_and_keep_their_sense() -> None:
    # (0, -2) -> (0, -1); (3, 4) less its part along (0, -1) is (3, 0) -> (1, 0). The negative entry of Q R = A^T,
    # with Q = ((0, 1), (-1, 0)) and R = ((2, -4), (0, 3)), stays in Q.
    found = orthogonal(torch.tensor([[0.0, -2.0], [3.0, 4.0]], dtype=torch.float64))
    assert torch.allclose(found, torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64))


def test_b_is_merged_with_one_over_the_root_of_the_number_of_experiences() -> None:
    # Experience 4: 1 + (5 - 1) / 2 = 3; A is the new one.
    memory = {"count": 4, "trained": {}, "merged": {"q": torch.tensor([[1.0]])}}
    after = {"q.A": torch.tensor([[7.0]]), "q.B": torch.tensor([[5.0]])}
    ctx = Context(toy_model(), toy_stream().experiences[0])
    found = SLAO(1).merge(memory, {n: torch.zeros(1, 1) for n in after}, after, ctx)
    assert {n: t.item() for n, t in found.items()} == {"q.A": 7.0, "q.B": 3.0}


def test_a_first_experience_is_plain_lora_and_is_kept_whole() -> None:
    model, state = summed.learned(SLAO(2, targets=KEYS), 1)
    for name, layer in adapters(model.module).items():
        assert torch.equal(layer.B, state.memory[0]["trained"][name])
        assert torch.equal(layer.B, state.weights[f"{name}.B"])


def test_a_second_experience_starts_from_the_trained_b_and_an_orthonormal_a() -> None:
    model, first = summed.learned(SLAO(2, targets=KEYS), 1)
    method, seen = SLAO(2, targets=KEYS), dict[str, Tensor]()
    before = {name: layer.A.detach().clone() for name, layer in adapters(model.module).items()}
    summed.begin(method, first.memory[0], first.weights, summed.at(model, 1))
    for name, layer in adapters(model.module).items():
        seen[name] = layer.B.detach().clone()
        assert torch.allclose(layer.A, orthogonal(before[name]))
        assert torch.equal(layer.B, first.memory[0]["trained"][name])
    _, second = summed.learned(method, 2)
    _, third = summed.learned(method, 3)
    for name in seen:
        old, new = first.weights[f"{name}.B"], second.memory[0]["trained"][name]
        merged = old + (new - old) / 2**0.5
        assert torch.allclose(second.weights[f"{name}.B"], merged, atol=1e-12)
        again = merged + (third.memory[0]["trained"][name] - merged) / 3**0.5
        assert torch.allclose(third.weights[f"{name}.B"], again, atol=1e-12)


def test_the_learner_trains_from_slaos_start() -> None:
    model, first = summed.learned(SLAO(2, targets=KEYS), 1)
    still = Learner("toy", SLAO(2, targets=KEYS), summed.still())
    a = {name: layer.A.detach().clone() for name, layer in adapters(model.module).items()}
    state = learn(still, model, first, toy_stream().experiences[1])
    for name, old in a.items():
        assert torch.allclose(state.weights[f"{name}.A"], orthogonal(old), atol=1e-12)


def test_routing_penalty_by_hand() -> None:
    model, method = toy_model(), RoutingCLoRA(1, targets="layers.0.self_attn.q_proj", orthogonality=0.5)
    method.params(method.init(model), model)
    (layer,) = routings(model.module).values()
    (name,) = routings(model.module)
    with torch.no_grad():
        layer.R.fill_(3.0)
    ctx = summed.at(model, 0)
    batch = next(ctx.batches(ctx.experience.train))
    # A = (1, 2), R = 3: ||A^T R||^2 = 9 + 36, of one entry of R
    gram = {name: torch.tensor([[5.0]])}
    found = method.loss({"old": {}, "gram": gram, "count": 2}, batch, ctx)
    assert isinstance(found, Tensor)
    assert found.item() == pytest.approx(0.5 * 45)
    assert method.loss(method.init(model), batch, ctx) == 0.0


def test_what_was_routed_becomes_old_and_the_function_stays() -> None:
    method = RoutingCLoRA(2, targets=KEYS)
    summed.begins_where_the_last_experience_ended(method)
    model, state = summed.learned(method, 1)
    was = {name: layer.R.detach().clone() for name, layer in routings(model.module).items()}
    memory = summed.begin(method, state.memory[0], state.weights, summed.at(model, 1))
    for name, layer in routings(model.module).items():
        assert torch.equal(layer.old, was[name])
        assert not layer.old.requires_grad
        assert not layer.R.any()
        assert torch.allclose(memory["gram"][name], layer.A @ layer.A.T)


@pytest.mark.parametrize("method", [SLAO(2, targets=KEYS), RoutingCLoRA(2, targets=KEYS)], ids=str)
def test_folding_does_not_change_the_function(method: SLAO | RoutingCLoRA) -> None:
    summed.folds_exactly(method)


def test_numbers_without_a_meaning_are_refused() -> None:
    for kind in (SLAO, RoutingCLoRA):
        with pytest.raises(ConfigError, match="rank is 1 or more"):
            kind(rank=0)
    with pytest.raises(ConfigError, match="orthogonality is 0 or more"):
        RoutingCLoRA(orthogonality=-1.0)
