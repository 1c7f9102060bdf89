"""The engine changes how memory is used, and not what is learned."""

import gc
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from everlearn.errors import ConfigError, ModelError
from everlearn.learner import Learner, learn
from everlearn.method import Method, chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.dual import DualLoRA
from everlearn.methods.freezing import Freeze
from everlearn.methods.inflora import InfLoRA
from everlearn.methods.replay import Replay
from everlearn.methods.subspaces import GPM
from everlearn.models.engine import Engine, free_memory, saved_bytes
from everlearn.testing.laws import RECIPE
from everlearn.testing.toys import toy_model, toy_stream
from everlearn.types import State
from everlearn.weights import equal


def learned(engine: Engine, method: Method | None = None) -> State:
    learner = Learner("toy", method or chain(), replace(RECIPE, epochs=2), engine=engine)
    model = toy_model()
    model.store = engine.store()
    state = learner.start(model)
    for experience in toy_stream():
        state = learn(learner, model, state, experience)
    return state


FROZEN = [
    Freeze(below=1),
    chain(LoRA(rank=2), Freeze(below=1), Replay(fraction=0.3)),
    chain(InfLoRA(rank=2), Freeze(below=1)),  # looks at what layers read, the frozen ones too
    chain(DualLoRA(rank=2), Freeze(below=1)),  # weighs its adapters by the input, and infers the experience
    chain(GPM(), Freeze(below=1)),
]


@pytest.mark.parametrize("method", FROZEN, ids=str)
def test_kept_states_change_nothing_but_rounding(method: Method) -> None:
    kept, whole = learned(Engine(), method), learned(Engine(activations=0), method)
    for name, weight in whole.weights.items():
        torch.testing.assert_close(kept.weights[name], weight, rtol=0, atol=1e-9)


def test_kept_on_disk_or_in_memory_or_thrown_away_the_bits_are_the_same(tmp_path: Path) -> None:
    memory = learned(Engine(), Freeze(below=1))
    disk = learned(Engine(activations=0, disk=1, folder=str(tmp_path)), Freeze(below=1))
    small = learned(Engine(activations=1e-5), Freeze(below=1))
    assert equal(memory.weights, disk.weights)
    assert equal(memory.weights, small.weights)


@pytest.mark.parametrize("method", [chain(), LoRA(rank=2, dropout=0.3), Freeze(below=1)])
def test_computing_activations_again_changes_no_bit(method: Method) -> None:
    assert equal(
        learned(Engine(checkpointing=True), method).weights, learned(Engine(checkpointing=False), method).weights
    )


def test_activations_are_computed_again_only_when_memory_asks_for_it() -> None:
    model, engine = toy_model(), Engine()
    for tokens, expected in ((128, False), (10**12, True)):
        with engine.serving(model, tokens):
            assert bool(model.module.is_activation_checkpointing) is expected
        assert not model.module.is_activation_checkpointing
    with engine.serving(model, 10**12, sharded=True):
        assert not model.module.is_activation_checkpointing
    with Engine(checkpointing=False).serving(model, 10**12):
        assert not model.module.is_activation_checkpointing


def test_saved_activations_are_fewer_when_they_are_computed_again() -> None:
    model = toy_model()
    plain = saved_bytes(model)
    with Engine(checkpointing=True).serving(model, 64):
        again = saved_bytes(model)
    assert 64 * 32 * 8 < again < plain / 2  # at least the states of one layer, 64 tokens of 32 numbers of 8 bytes
    assert plain < free_memory(model.device)


def test_what_is_counted_is_freed() -> None:
    model = toy_model()
    left = []
    for _ in range(3):
        saved_bytes(model)
        left.append(sum(type(thing) is torch.Tensor for thing in gc.get_objects()))
    assert left[1] == left[2]


def test_what_learns_nothing_saves_nothing() -> None:
    model = toy_model()
    model.module.requires_grad_(False)
    assert saved_bytes(model) == 0


def test_checkpointing_that_an_architecture_lacks_is_refused() -> None:
    model = toy_model()
    model.module.supports_gradient_checkpointing = False
    with pytest.raises(ModelError, match="no gradient checkpointing"), Engine(checkpointing=True).serving(model, 64):
        pass


def test_negative_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="0 or more"):
        Engine(activations=-1)
