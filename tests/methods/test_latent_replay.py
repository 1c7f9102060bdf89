"""Stored states are replayed as the examples themselves would be, from the cut up."""

from dataclasses import replace

import pytest
import torch

from everlearn.errors import ConfigError, MethodError
from everlearn.examples import Batch, Example
from everlearn.learner import Learner, learn
from everlearn.method import Context, chain
from everlearn.methods.freezing import Freeze
from everlearn.methods.latent_replay import LatentReplay
from everlearn.methods.prompts import L2P
from everlearn.models.engine import Engine
from everlearn.models.layers import below
from everlearn.testing.laws import RECIPE, learned
from everlearn.testing.toys import toy_model, toy_stream
from everlearn.types import Memory
from everlearn.weights import pack

EXACT = LatentReplay(below=1, fraction=0.5, capacity=4, precision="own", refresh=True)


def filled(method: LatentReplay) -> tuple[Memory, Context]:
    """The memory after the first experience, and the moment in the second."""
    model, (first, second, _) = toy_model(), toy_stream()
    memory = method.end(method.init(model), Context(model, first))
    return memory, replace(Context(model, second, seen=1), plan=replace(Context(model, second).plan, batch_size=4))


def some_batch(ctx: Context) -> Batch:
    return next(ctx.batches(ctx.experience.train))


def test_the_term_and_its_gradient_above_the_cut_are_those_of_the_examples_themselves() -> None:
    memory, ctx = filled(EXACT)
    term = EXACT.loss(memory, some_batch(ctx), ctx)
    assert isinstance(term, torch.Tensor)
    examples = [Example.from_row(kept["row"]) for kept in memory["kept"]]  # half of 4 + 4 rows: all that is kept
    batches = list(ctx.batches(examples))
    weight = sum(b.weight for b in batches)
    plain = torch.stack([ctx.loss(b) * (b.weight / weight) for b in batches]).sum()
    torch.testing.assert_close(term, plain, rtol=0, atol=1e-12)
    found, expected = ctx.grads(term), ctx.grads(plain)
    front = below(ctx.model.module, 1)
    for name in found.keys() - front.keys():
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-12)
    assert not any(found[name].any() for name in front.keys() - ctx.model.embeddings())
    assert any(expected[name].any() for name in front)


def test_a_front_whose_states_are_kept_by_the_engine_is_replayed_alike() -> None:
    method = chain(Freeze(below=1), LatentReplay(below=1, fraction=0.4, precision="own"))
    weights = []
    for engine in (Engine(), Engine(activations=0)):
        learner, model = Learner("toy", method, RECIPE, engine=engine), toy_model()
        model.store = engine.store()
        state = learner.start(model)
        for experience in toy_stream():
            state = learn(learner, model, state, experience)
        weights.append(state.weights)
    for name, weight in weights[0].items():
        torch.testing.assert_close(weight, weights[1][name], rtol=0, atol=1e-10)


def test_rows_are_replayed_at_the_share_that_is_asked_for() -> None:
    method = replace(EXACT, fraction=0.2, capacity=12)  # a quarter of a new row for each: one in every step of four
    memory, ctx = filled(method)
    terms = [method.loss(memory, some_batch(ctx), replace(ctx, step=step)) for step in range(4)]
    assert all(isinstance(term, torch.Tensor) for term in terms)
    rare = replace(method, fraction=0.1)  # a ninth for each of four: one in every 2.25 steps
    terms = [rare.loss(memory, some_batch(ctx), replace(ctx, step=step)) for step in range(9)]
    assert sum(isinstance(term, torch.Tensor) for term in terms) == 4


def test_no_text_is_kept_unless_it_is_asked_for_and_bytes_are_as_declared() -> None:
    method = LatentReplay(below=1, capacity=5)
    memory, _ = filled(method)
    assert not any("row" in kept for kept in memory["kept"])
    sizes = [(len(k["where"]), len(k["targets"])) for k in memory["kept"]]
    stored = sum(t.nbytes for t in pack(memory)[1].values())
    assert len(sizes) == 5
    assert stored == sum(2 * tokens * 32 + 4 * targets + tokens for tokens, targets in sizes)


def test_states_age_and_can_be_made_anew() -> None:
    memory = learned(LatentReplay(below=1, age=1, capacity=100)).memory[0]
    assert {k["origin"] for k in memory["kept"]} == {"cats", "digits"}  # letters were forgotten before the third
    memory, ctx = filled(EXACT)
    with torch.no_grad():
        for parameter in below(ctx.model.module, 1).values():
            parameter *= 1.1
    again = EXACT.begin(memory, ctx)
    for old, new in zip(memory["kept"], again["kept"], strict=True):
        assert old["row"] == new["row"]
        assert new["born"] == 1
        assert not torch.allclose(old["states"], new["states"])
        assert torch.equal(old["targets"], new["targets"])


def test_what_it_cannot_replay_is_refused() -> None:
    memory, ctx = filled(EXACT)
    other = replace(ctx, experience=replace(ctx.experience, objective=object()))  # type: ignore[arg-type]
    with pytest.raises(MethodError, match="learns by object"):
        EXACT.loss(memory, some_batch(ctx), other)
    with pytest.raises(MethodError, match="leave out one"):
        learned(chain(L2P(), LatentReplay(below=1)))
    for wrong in ({"fraction": 1.0}, {"below": 0}, {"age": -1}, {"precision": "int8"}, {"selection": "all"}):
        with pytest.raises(ConfigError):
            replace(EXACT, **wrong)  # type: ignore[arg-type]
