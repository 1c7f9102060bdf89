"""Subspaces by hand, and movements that stay out of them whatever AdamW proposes."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from everlearn.errors import ConfigError, MethodError
from everlearn.learner import Learner, learn
from everlearn.method import Context, Method, Tensors, chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.spans import off_directions
from everlearn.methods.subspaces import GPM, OGD, OSF
from everlearn.models.language_model import LanguageModel
from everlearn.models.optim import AdamW, Recipe
from everlearn.testing.toys import toy_model, toy_stream
from everlearn.types import Memory, State

RECIPE = Recipe(AdamW(learning_rate=1e-2, weight_decay=0.1), batch_size=4, length=64, tokens=4096, epochs=2)


def tensor(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def learned(method: Method, model: LanguageModel, count: int, state: State | None = None) -> State:
    """The state after experiences up to the given number, from a state or from the start."""
    learner = Learner("toy", method, RECIPE)
    state = state or learner.start(model)
    for experience in toy_stream().experiences[len(state.seen) : count]:
        state = learn(learner, model, state, experience)
    return state


@dataclass(frozen=True)
class Spy(Method):
    """Keeps the movements that are left to it."""

    found: ClassVar[list[Tensors]] = []

    def update(self, memory: Memory, update: Tensors, ctx: Context) -> Tensors:
        self.found.append(update)
        return update


def movements(method: Method) -> tuple[Memory, list[Tensors]]:
    """A method's memory after two experiences, and the movements of the third."""
    model = toy_model()
    state = learned(method, model, 2)
    Spy.found.clear()
    learned(chain(method, Spy()), model, 3, replace(state, memory=[*state.memory, None]))
    return state.memory[-1], list(Spy.found)


def size(tensors: Tensors) -> float:
    return sum(float((t**2).sum()) for t in tensors.values()) ** 0.5


# Orthogonal gradient descent


@pytest.mark.parametrize("of", ["logits", "logprobs"])
def test_no_movement_of_adamw_has_a_part_along_old_gradients(of: Any) -> None:
    basis, found = movements(OGD(kept=4, of=of))
    gram = sum(b.flatten(1) @ b.flatten(1).T for b in basis.values())
    torch.testing.assert_close(gram, torch.eye(8, dtype=torch.float64), atol=1e-12, rtol=0)
    for update in found:
        along = sum(b.flatten(1) @ update[n].flatten() for n, b in basis.items())
        assert float(along.abs().max()) < 1e-12  # type: ignore[union-attr]
    assert size(found[2]) > 0.01
    again = off_directions(found[2], basis)
    assert all(torch.allclose(again[n], u, rtol=0, atol=1e-14) for n, u in found[2].items())


def test_old_outputs_stay_to_first_order() -> None:
    model = toy_model()
    ctx = Context(model, toy_stream().experiences[0])
    basis = OGD(kept=100).end(None, ctx)
    start = {n: p.detach().clone() for n, p in ctx.trainable().items()}
    rng = torch.Generator().manual_seed(0)
    raw = {n: torch.randn(p.shape, dtype=p.dtype, generator=rng) for n, p in start.items()}
    (batch,) = ctx.batches(ctx.experience.train[:1])

    def change(movement: Tensors, length: float) -> float:
        with torch.no_grad():
            model.assign(start)
            before = float(model.token_logits(batch).mean())
            model.assign({n: p + length * movement[n] for n, p in start.items()})
            return abs(float(model.token_logits(batch).mean()) - before)

    off = off_directions(raw, basis)
    # A hundredth of the way changes an output a hundredth as much, and a ten-thousandth where the slope is nothing.
    assert change(raw, 1e-5) / change(raw, 1e-3) > 5e-3
    assert change(off, 1e-5) / change(off, 1e-3) < 5e-4


# Gradient projection memory


@pytest.mark.parametrize("method", [chain(GPM()), chain(LoRA(rank=4), GPM(threshold=0.9))], ids=["whole", "adapters"])
def test_no_movement_of_adamw_reaches_old_inputs(method: Method) -> None:
    memory, found = movements(method)
    assert all(float((update[n] @ b).abs().max()) < 1e-12 for update in found for n, b in memory["bases"].items())
    assert all(float(update[n].abs().max()) == 0 for update in found for n in memory["others"])
    assert size(found[2]) > 1e-3


def told(method: Method) -> tuple[Tensor, Tensor, float]:
    """Log-probabilities of what a first experience taught, after it and after a second; and by how much that moved."""
    model = toy_model()
    first = toy_stream(1).experiences[0]
    learner = Learner("toy", method, RECIPE)
    state = learn(learner, model, learner.start(model), first)
    (batch,) = Context(model, first).batches(first.train)
    before = model.token_logprobs(batch).detach()
    after = learn(learner, model, state, toy_stream().experiences[1])
    moved = size({n: after.weights[n] - w for n, w in state.weights.items()})
    return before, model.token_logprobs(batch).detach(), moved


@pytest.mark.parametrize("wrapped", [(), (LoRA(rank=4),)], ids=["whole", "adapters"])
def test_what_lies_in_the_old_input_space_is_told_as_before(wrapped: tuple[Method, ...]) -> None:
    before, after, moved = told(chain(*wrapped, GPM(threshold=1.0)))
    assert moved > 0.01
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)
    before, after, _ = told(chain(*wrapped))
    assert float((after - before).abs().max()) > 0.01


def test_other_parameters_may_be_left_free_at_a_price() -> None:
    before, after, _ = told(GPM(threshold=1.0, others="free"))
    assert float((after - before).abs().max()) > 1e-3


def test_the_bases_hold_their_share_of_what_was_read() -> None:
    ctx = Context(toy_model(), toy_stream().experiences[0])
    method = GPM(threshold=0.9, samples=100, tokens=10_000)
    memory = method.end(None, ctx)
    for name, inputs in method._inputs(ctx).items():
        basis = memory["bases"][name]
        energies = ((inputs @ basis) ** 2).sum(0)
        total = float((inputs**2).sum())
        assert float(energies.sum()) >= 0.9 * total > float(energies.sum() - energies.min())


def test_few_tokens_are_drawn_where_few_are_asked_for() -> None:
    ctx = Context(toy_model(), toy_stream().experiences[0])
    inputs = GPM(tokens=5)._inputs(ctx)
    assert {len(x) for x in inputs.values()} == {5}


def test_nothing_to_project_is_said() -> None:
    model = toy_model()
    model.module.requires_grad_(False)
    model.module.get_submodule("model.norm").requires_grad_(True)
    ctx = Context(model, toy_stream().experiences[0])
    with pytest.raises(MethodError, match="no linear layer of toy learns"):
        GPM().begin(None, ctx)
    with pytest.raises(MethodError, match="parts of whole weights"):
        OSF().begin(None, ctx)


# Orthogonal-subspace fine-tuning


def test_a_movement_off_large_singular_directions_by_hand() -> None:
    # W = diag(3, 1), the first direction held: its block (1, 1) of a movement goes, or its whole row and column.
    update, held = tensor([1, 2], [3, 4]), (tensor([1], [0]), tensor([1], [0]))
    assert OSF()._off(update, held, False).tolist() == [[0, 2], [3, 4]]
    assert OSF(formula="repo")._off(update, held, False).tolist() == [[0, 0], [0, 4]]


@pytest.mark.parametrize("formula", ["paper", "repo"])
def test_a_transposed_weight_moves_as_the_other_kind_does(formula: Any) -> None:
    rng = torch.Generator().manual_seed(0)
    update, left, right = (torch.randn(n, m, dtype=torch.float64, generator=rng) for n, m in ((5, 3), (5, 2), (3, 2)))
    held = (torch.linalg.qr(left).Q, torch.linalg.qr(right).Q)
    method = OSF(formula=formula)
    once = method._off(update, held, False)
    torch.testing.assert_close(method._off(update.T, held, True), once.T)
    torch.testing.assert_close(method._off(once, held, False), once)


@pytest.mark.parametrize("formula", ["paper", "repo"])
def test_large_singular_directions_stay_under_adamw(formula: Any) -> None:
    model = toy_model()
    before = {n: p.detach().clone() for n, p in model.trainable().items()}
    state = learned(OSF(held=0.25, formula=formula), model, 1)
    assert state.memory == [None]
    for layer in ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj", "mlp.down_proj"):
        name = f"model.layers.1.{layer}.weight"
        left, values, right = torch.linalg.svd(before[name], full_matrices=False)
        count = min(before[name].shape) // 4
        kept = left[:, :count] * values[:count]
        if formula == "repo":
            torch.testing.assert_close(state.weights[name] @ right[:count].T, kept)
        inner = left[:, :count].T @ state.weights[name] @ right[:count].T
        torch.testing.assert_close(inner, torch.diag(values[:count]))
        assert float((state.weights[name] - before[name]).norm()) > 0.01


def test_nothing_held_is_plain_and_an_adapter_is_refused() -> None:
    plain, free = learned(chain(), toy_model(), 2), learned(OSF(held=0.0), toy_model(), 2)
    for name, weight in plain.weights.items():
        torch.testing.assert_close(free.weights[name], weight, rtol=0, atol=1e-9)
    with pytest.raises(MethodError, match="none of toy learns"):
        learned(chain(LoRA(rank=2), OSF()), toy_model(), 1)


def test_numbers_without_a_meaning_are_refused() -> None:
    wrong: list[Any] = [lambda: OGD(kept=0), lambda: GPM(threshold=0.0), lambda: GPM(tokens=0), lambda: OSF(held=2.0)]
    for make in wrong:
        with pytest.raises(ConfigError, match=r"is in|1 or more"):
            make()
