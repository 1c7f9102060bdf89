"""What an experience may move, and what it keeps: by hand, and to the bit under AdamW with weight decay."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from everlearn.errors import ConfigError, MethodError
from everlearn.learner import Learner, Watch, learn
from everlearn.method import Context, Method, chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.masks import any_of, pack_bits, unpack_bits
from everlearn.methods.pruning import FAPM, PackNet, SparseMovement
from everlearn.models.optim import AdamW, Muon
from everlearn.testing.laws import RECIPE, learned
from everlearn.testing.toys import toy_model, toy_stream
from everlearn.types import Memory, State
from tests.methods.late import Late
from tests.methods.plane import Plane, at, penalty, plane, some_batch

DECAYING = replace(RECIPE, epochs=2, optimiser=AdamW(learning_rate=1e-2, weight_decay=0.1))


def here() -> Context:
    return Context(toy_model(), toy_stream().experiences[0])


def versions(method: Method, recipe: Any = DECAYING) -> list[State]:
    """The base version, and the one after each experience."""
    learner, stream, model = Learner("toy", method, recipe, 0), toy_stream(), toy_model()
    states = [learner.start(model)]
    for experience in stream:
        states.append(learn(learner, model, states[-1], experience))
    return states


def test_fapm_by_hand() -> None:
    # mean|W0| = 1.5. 0.5 - 1.5 * 0.5 / 2 = 0.125 and 1 - 1.5 * 1 / 1 = -0.5: the larger change is the one that goes.
    before, after = {"w": torch.tensor([2.0, -1.0])}, {"w": torch.tensor([2.5, -2.0])}
    kept = FAPM(keep=0.5).merge(None, before, after, here())
    assert kept["w"].tolist() == [2.5, -1.0]
    assert FAPM(keep=1.0).merge(None, before, after, here())["w"].tolist() == [2.5, -2.0]


def test_fapm_ranks_what_falls_on_a_zero_last() -> None:
    before, after = {"w": torch.tensor([0.0, 1.0, 1.0])}, {"w": torch.tensor([9.0, 1.1, 1.0])}
    assert FAPM(keep=0.6).merge(None, before, after, here())["w"].tolist() == pytest.approx([0.0, 1.1, 1.0])


def test_fapm_in_each_tensor_or_in_all_together() -> None:
    # a: mean 1: 1 - 1 = 0, 0.5 - 0.5 = 0 -> equal; b: mean 2: 2 * (1 - 2 / 3) = 2/3 and 2 * (1 - 2 / 1) = -2.
    before = {"a": torch.tensor([1.0, 1.0]), "b": torch.tensor([3.0, 1.0])}
    after = {"a": torch.tensor([2.0, 1.5]), "b": torch.tensor([5.0, 3.0])}
    each = FAPM(keep=0.5).merge(None, before, after, here())
    assert {n: t.tolist() for n, t in each.items()} == {"a": [2.0, 1.0], "b": [5.0, 1.0]}
    whole = FAPM(keep=0.25, scope="all").merge(None, before, after, here())
    assert {n: t.tolist() for n, t in whole.items()} == {"a": [1.0, 1.0], "b": [5.0, 1.0]}


@pytest.mark.parametrize("scope", ["tensor", "all"])
def test_fapm_changes_the_fraction_it_keeps(scope: Any) -> None:
    first = versions(FAPM(keep=0.1, scope=scope))[1]
    start = {n: p.detach() for n, p in toy_model().parameters().items()}
    changed = {n: int((w != start[n]).sum()) for n, w in first.weights.items()}
    if scope == "tensor":
        assert all(c <= round(0.1 * start[n].numel()) for n, c in changed.items())
    total = sum(p.numel() for p in start.values())
    assert 0.08 * total < sum(changed.values()) <= 0.1 * total + len(start)


def test_fapm_that_keeps_all_is_plain_fine_tuning() -> None:
    kept, plain = learned(FAPM(keep=1.0)).weights, learned(chain()).weights
    assert all(torch.equal(kept[n], plain[n]) for n in plain)


def test_fapm_refuses_adapters() -> None:
    with pytest.raises(MethodError, match="leave LoRA out, or FAPM"):
        versions(chain(LoRA(rank=2), FAPM()))


def test_sparse_movement_by_hand() -> None:
    method, model = SparseMovement(strength=10.0, fraction=0.5), plane(1, 1)
    memory = method.begin(None, at(model))
    model.move(0.5, -2.0)
    assert method.loss(memory, some_batch(), at(model)) == 0  # nothing is old in the first experience
    memory = method.begin(method.end(memory, at(model)), at(model, seen=1))
    assert unpack_bits(memory["mask"]["w"], model.weight.shape).tolist() == [False, True]
    assert penalty(method, memory, model) == (0, [0, 0])
    model.move(3.0, -1.5)
    assert penalty(method, memory, model) == (10 * 1.5, [0, -10])  # the mean over a mask of one
    assert unpack_bits(method.end(memory, at(model))["mask"]["w"], model.weight.shape).tolist() == [True, True]


def test_what_has_not_moved_is_not_protected() -> None:
    method, model = SparseMovement(fraction=1.0), plane(1, 1)
    memory = method.begin(None, at(model))
    model.move(0.5, 0.0)
    assert unpack_bits(method.end(memory, at(model))["mask"]["w"], model.weight.shape).tolist() == [True, False]


def test_protected_weights_move_less_and_memory_is_bounded() -> None:
    drifts, total = [], sum(p.nbytes for p in toy_model().parameters().values())
    for strength in (0.0, 1e6):
        _, first, second, third = versions(SparseMovement(strength=strength), replace(RECIPE, epochs=5))
        for state in (first, second, third):
            bits = state.memory[0]["mask"].values()
            assert sum(b.nbytes for b in bits) == sum(-(-w.numel() // 8) for w in state.weights.values())
            assert sum(a.nbytes for a in state.memory[0]["anchor"].values()) == total
        masks = {n: unpack_bits(b, first.weights[n].shape) for n, b in first.memory[0]["mask"].items()}
        drifts.append(sum(float((m * (second.weights[n] - first.weights[n]) ** 2).sum()) for n, m in masks.items()))
    assert drifts[1] < 0.3 * drifts[0]


def square(*values: float) -> Plane:
    return Plane(torch.tensor(values, dtype=torch.float64).view(2, -1).requires_grad_())


def owned(memory: Memory, shape: torch.Size) -> Tensor:
    return unpack_bits(any_of(memory["masks"])["w"], shape)


def test_packnet_by_hand() -> None:
    method, model = PackNet(prune=0.5), square(1, -3, 2, 0.5)
    memory = method.end(method.begin(None, at(model)), at(model))
    weights = {"w": model.weight.detach()}
    assert owned(memory, model.weight.shape).tolist() == [[False, True], [True, False]]
    assert method.merge(memory, weights, weights, at(model))["w"].tolist() == [[0, -3], [2, 0]]
    push = {"w": torch.tensor([[7.0, 7], [7, 7]])}
    assert method.update(memory, push, at(model))["w"].tolist() == [[7, 0], [0, 7]]
    assert method.grad(memory, push, at(model))["w"].tolist() == [[7, 0], [0, 7]]
    later = square(4, -3, 2, 5)  # the free ones have learned; half of them is kept
    memory = method.end(method.begin(memory, at(later, seen=1)), at(later, seen=1))
    weights = {"w": later.weight.detach()}
    assert method.merge(memory, weights, weights, at(later))["w"].tolist() == [[0, -3], [2, 5]]
    assert method.subnetwork(memory, weights, weights, 1)["w"].tolist() == [[0, -3], [2, 0]]


def test_packnet_that_restores_prunes_by_movement() -> None:
    method, model = PackNet(prune=0.5, free="restore"), square(1, -3, 2, 0.5)
    memory, before = method.begin(None, at(model)), {"w": model.weight.detach().clone()}
    with torch.no_grad():
        model.weight += torch.tensor([[4.0, 0.1], [0.2, 3.0]])
    memory = method.end(memory, at(model))
    merged = method.merge(memory, before, {"w": model.weight.detach()}, at(model))
    assert merged["w"].tolist() == [[5, -3], [2, 3.5]]
    assert "start" not in memory


@pytest.mark.parametrize("free", ["zero", "restore"])
def test_packnet_trains_on_what_it_keeps(free: Any) -> None:
    method, model = PackNet(prune=0.5, free=free, retrain_after=1), square(1, -3, 2, 0.5)
    memory = method.begin(None, at(model))
    moved = torch.tensor([[0.25, -4.0], [5.0, 0.5]], dtype=torch.float64)
    with torch.no_grad():
        model.weight += moved
    memory = method.step(memory, {"w": moved}, {"w": moved}, at(model))
    push = {"w": torch.full((2, 2), 7.0, dtype=torch.float64)}
    back = -model.weight.detach() if free == "zero" else -moved
    assert method.update(memory, push, at(model, step=1))["w"].tolist() == [[back[0, 0], 7], [7, back[1, 1]]]
    memory = method.step(memory, push, push, at(model, step=1))
    assert method.update(memory, push, at(model, step=2))["w"].tolist() == [[0, 7], [7, 0]]
    with torch.no_grad():
        model.weight += torch.tensor([[-9.0, 0], [0, 0]])  # as large as it may be: it was chosen before
    assert owned(method.end(memory, at(model)), model.weight.shape).tolist() == [[False, True], [True, False]]


def test_a_fixed_weight_keeps_its_sign_of_zero() -> None:
    memory = {"masks": [{"w": pack_bits(torch.tensor([True, True]))}]}
    update = PackNet().update(memory, {"w": torch.tensor([1.0, 1.0])}, at(plane(0, 0)))["w"]
    assert torch.signbit(torch.tensor([-0.0, 0.0]) + update).tolist() == [True, False]


PACKNETS = [PackNet(), PackNet(prune=0.8, retrain_after=2), PackNet(free="restore"), PackNet(0.3, "restore", 3)]


@pytest.mark.parametrize("others", [(), (LoRA(rank=2),)], ids=["full", "LoRA"])
@pytest.mark.parametrize("method", PACKNETS, ids=str)
def test_old_weights_are_the_same_bits_after_another_experience(method: PackNet, others: tuple[Method, ...]) -> None:
    _, *states = versions(chain(*others, method))
    for number, old in enumerate(states):
        masks = any_of(old.memory[-1]["masks"])
        for new in states[number + 1 :]:
            for name, bits in masks.items():
                mine = unpack_bits(bits, old.weights[name].shape)
                a, b = (s.weights[name][mine].view(torch.int64) for s in (old, new))
                assert torch.equal(a, b)
            assert any(not torch.equal(old.weights[n], new.weights[n]) for n in masks)


def test_old_weights_are_the_same_bits_under_muon() -> None:
    recipe = replace(RECIPE, optimiser=Muon(learning_rate=1e-2, weight_decay=0.1))
    _, first, second, _ = versions(PackNet(), recipe)
    for name, bits in any_of(first.memory[0]["masks"]).items():
        mine = unpack_bits(bits, first.weights[name].shape)
        assert torch.equal(first.weights[name][mine], second.weights[name][mine])


@pytest.mark.parametrize("method", PACKNETS, ids=str)
def test_what_an_experience_left_is_to_be_had_again(method: PackNet) -> None:
    base = {n: p.detach() for n, p in toy_model().parameters().items()}
    _, *states = versions(method)
    last = states[-1]
    for number, state in enumerate(states, 1):
        found = method.subnetwork(last.memory[0], last.weights, base, number)
        assert all(torch.equal(found[n], w) for n, w in state.weights.items())


def test_each_experience_gets_its_share_and_vectors_stay_with_the_first() -> None:
    *_, last = versions(PackNet(prune=0.75))
    masks = last.memory[0]["masks"]
    assert len(masks) == 3
    for name, weight in last.weights.items():
        sizes = [int(unpack_bits(m[name], weight.shape).sum()) for m in masks]
        total = int(unpack_bits(any_of(masks)[name], weight.shape).sum())
        assert sum(sizes) == total  # nothing belongs to two
        n = weight.numel()
        quarter = [round(0.25 * n), round(0.25 * (n - sizes[0])), round(0.25 * (n - sizes[0] - sizes[1]))]
        assert sizes == ([n, 0, 0] if weight.ndim == 1 else quarter)
        assert all(m[name].nbytes == -(-n // 8) for m in masks)


def test_pruned_weights_are_zero_while_the_rest_is_trained_on() -> None:
    learner = Learner("toy", PackNet(retrain_after=1), replace(DECAYING, epochs=1), 0)
    model, stream, seen = toy_model(), toy_stream(), list[dict[str, Tensor]]()
    watch = Watch(log=lambda _: seen.append({n: p.detach().clone() for n, p in model.parameters().items()}))
    state = learn(learner, model, learner.start(model), stream.experiences[0], watch)
    assert len(seen) == 3
    for name, bits in state.memory[0]["masks"][0].items():
        kept = unpack_bits(bits, state.weights[name].shape)
        zeros = [bool((weights[name][~kept] == 0).all()) for weights in seen]
        assert zeros == [kept.all(), True, True]
        assert not (seen[1][name] == seen[2][name])[kept].all()
        assert torch.equal(state.weights[name], seen[2][name])


@pytest.mark.parametrize(
    ("kind", "arguments", "says"),
    [
        (FAPM, {"keep": 0.0}, r"keep is in \(0, 1\]"),
        (FAPM, {"keep": 1.1}, r"keep is in \(0, 1\]"),
        (SparseMovement, {"strength": -1.0}, "strength is 0 or more"),
        (SparseMovement, {"fraction": 1.5}, r"fraction is in \[0, 1\]"),
        (PackNet, {"prune": 1.0}, r"prune is in \[0, 1\)"),
        (PackNet, {"retrain_after": 0}, "retrain_after 1 or more"),
    ],
)
def test_numbers_without_a_meaning_are_refused(kind: Any, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        kind(**arguments)


@pytest.mark.parametrize("method", [SparseMovement(), PackNet(), PackNet(0.5, "restore", 1)], ids=str)
def test_parameters_may_join_after_the_experience_began(method: Any) -> None:
    state = learned(chain(Late(), method))
    assert all(name.endswith((".A", ".B")) for name in state.weights)
    assert all(w.isfinite().all() for w in state.weights.values())
