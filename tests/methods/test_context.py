"""Longer contexts: exact within what a model knows, part of the version, and the same however often it is rebuilt."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from everlearn.data.packing import Row, collate
from everlearn.errors import ConfigError, ModelError
from everlearn.examples import Batch, Encoded
from everlearn.learner import Learner, learn
from everlearn.method import Method, chain
from everlearn.methods.context import AdjustedBase, PositionInterpolation, YaRN
from everlearn.methods.freezing import Freeze
from everlearn.models.activations import Store
from everlearn.models.engine import Engine
from everlearn.models.language_model import LanguageModel
from everlearn.testing.laws import RECIPE, learned
from everlearn.testing.toys import toy_model, toy_stream
from everlearn.types import State, Stream
from everlearn.weights import equal

LONGER: list[Method] = [PositionInterpolation(32), AdjustedBase(32), YaRN(32, 0.5, 4.0), YaRN(32, formula="repo")]


def staged(*lengths: int | None) -> Stream:
    """The toy's experiences, each with rows of its own length."""
    pairs = zip(toy_stream(), lengths, strict=True)
    return replace(toy_stream(), experiences=tuple(replace(e, length=length) for e, length in pairs))


def frequencies(model: LanguageModel) -> Tensor:
    found: Tensor = model.module.get_submodule("model.rotary_emb").inv_freq  # type: ignore[assignment]
    return found.clone()


def batch() -> Batch:
    tokens = tuple(7 + i % 30 for i in range(60))
    return collate([Row((Encoded(tokens, (False, *(True,) * 59)),))])


@pytest.mark.parametrize("method", [replace(m, original=64) for m in LONGER], ids=str)  # type: ignore[type-var]
def test_within_what_the_model_knows_it_is_plain_fine_tuning(method: Method) -> None:
    assert equal(learned(method).weights, learned(chain()).weights)


@pytest.mark.parametrize("method", LONGER, ids=str)
def test_the_factor_is_the_longest_experience_over_the_original(method: Method) -> None:
    learner, model = Learner("toy", method, RECIPE), toy_model()
    state, seen = learner.start(model), list[Tensor]()
    for experience in staged(32, 128, 64):
        state = learn(learner, model, state, experience)
        seen.append(frequencies(model))
    assert state.memory == [{"length": 128}]
    assert torch.equal(seen[0], frequencies(toy_model()))
    assert torch.equal(seen[1], seen[2])
    assert float(seen[1][-1]) == pytest.approx(float(seen[0][-1]) / 4)


def test_an_adjusted_base_is_the_one_that_is_said() -> None:
    learner, model = Learner("toy", AdjustedBase(32, base=500000.0), RECIPE), toy_model()
    learn(learner, model, learner.start(model), toy_stream().experiences[0])
    wanted = 500000.0 ** -(torch.arange(4).double() / 4)
    torch.testing.assert_close(frequencies(model), wanted, rtol=1e-6, atol=0)


def test_attention_is_tempered_beyond_the_original_unless_it_is_not_asked() -> None:
    for tempered, scaling in ((True, 1.0693147), (False, 1.0)):  # 0.1 ln 2 + 1
        learner, model = Learner("toy", YaRN(32, tempered=tempered), RECIPE), toy_model()
        learn(learner, model, learner.start(model), toy_stream().experiences[0])
        assert model.module.get_submodule("model.rotary_emb").attention_scaling == pytest.approx(scaling)


def test_a_version_is_rebuilt_with_its_length() -> None:
    learner, model = Learner("toy", YaRN(32, 0.5, 4.0), RECIPE), toy_model()
    states = [learner.start(model)]
    logits = []
    for experience in staged(32, 64, 256):
        states.append(learn(learner, model, states[-1], experience))
        logits.append(model.token_logprobs(batch()).detach())
    for state, own in zip(states[1:], logits, strict=True):
        again = learner.restore(toy_model(), state)
        assert torch.equal(again.token_logprobs(batch()), own)
        torch.testing.assert_close(learner.restore(model, state).token_logprobs(batch()), own, rtol=0, atol=0)


def test_states_kept_below_a_cut_are_not_used_under_other_frequencies() -> None:
    method = chain(YaRN(32, 0.5, 4.0), Freeze(below=1))

    def after(engine: Engine) -> State:
        learner, model = Learner("toy", method, RECIPE, engine=engine), toy_model()
        model.store = engine.store()
        state = learner.start(model)
        once = toy_stream().experiences[1]
        for name, length in (("short", 32), ("longer", 64), ("longest", 256)):  # the same texts again
            state = learn(learner, model, state, replace(once, name=name, length=length))
        assert engine.activations == 0 or isinstance(model.store, Store)
        return state

    kept, anew = after(Engine()), after(Engine(activations=0))
    for name, value in kept.weights.items():
        torch.testing.assert_close(value, anew.weights[name], rtol=0, atol=1e-10)


def test_what_cannot_be_meant_is_refused() -> None:
    for wrong in (
        lambda: YaRN(0),
        lambda: YaRN(slow=4, fast=2),
        lambda: YaRN(formula="mine"),
        lambda: AdjustedBase(9, 1),
    ):  # type: ignore[arg-type]
        with pytest.raises(ConfigError):
            wrong()
    with pytest.raises(ModelError, match="room for one of them"):
        learned(chain(YaRN(32), PositionInterpolation(32)))
