"""Other versions' weights, held beside the live model's."""

import pytest
import torch

from everlearn.errors import ModelError
from everlearn.method import chain
from everlearn.methods.adapters import LoRA
from everlearn.reference_weights import References, base_weights
from everlearn.testing.toys import toy_model
from everlearn.weights import Tensors


def number(value: float) -> dict[str, torch.Tensor]:
    return {"w": torch.tensor([value])}


def held(wanted: dict[str, float], sharded: bool = False) -> References:
    return References(wanted, lambda: number(1.0), lambda start: number(0.0), sharded)


def test_a_running_mean_follows_and_the_others_stand_still() -> None:
    references = held({"start": 1.0, "base": 1.0, "ema": 0.75})
    assert references.moving
    references.step(number(3.0))  # 0.75 * 1 + 0.25 * 3
    references.step(number(3.0))  # 0.75 * 1.5 + 0.25 * 3
    values = {name: weights["w"].item() for name, weights in references.weights.items()}
    assert values == {"start": 1.0, "base": 0.0, "ema": 1.875}


def test_what_has_moved_is_kept_and_comes_back() -> None:
    references, again = held({"start": 1.0, "ema": 0.5}), held({"start": 1.0, "ema": 0.5})
    references.step(number(5.0))
    assert references.state().keys() == {"ema"}
    again.load_state(references.state())
    assert again.weights["ema"]["w"].item() == 3.0


def test_nothing_is_copied_where_nothing_is_wanted() -> None:
    def refuse(*_: object) -> Tensors:
        raise AssertionError("weights were copied for nobody")

    assert References({}, refuse, refuse, sharded=True).weights == {}


def test_no_process_can_hold_another_version_of_sharded_parameters() -> None:
    with pytest.raises(ModelError, match=r"launch without FSDP.* or take an objective without a reference, as SimPO"):
        held({"start": 1.0}, sharded=True)


def test_the_base_is_what_a_fresh_model_says_whatever_methods_have_added() -> None:
    method, model = chain(LoRA(rank=2)), toy_model()
    memory = method.init(model)
    method.params(memory, model)
    start = {name: p.detach() + 1 for name, p in model.trainable().items()}
    assert base_weights(toy_model, method, memory, {}, start) is start
    base = base_weights(toy_model, method, memory, start, start)
    assert base.keys() == start.keys()
    assert all(not w.any() for name, w in base.items() if name.endswith(".B"))
