"""The critic as a method."""

import pytest

from everlearn.errors import ConfigError
from everlearn.method import chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.critic import Critic
from everlearn.testing.toys import toy_model


def test_it_learns_beside_adapters_and_leaves_the_rest_as_it_is() -> None:
    model, method = toy_model(), chain(LoRA(rank=2), Critic(hidden=4))
    method.params(method.init(model), model)
    kinds = {"critic" in name for name in model.trainable()}
    assert kinds == {True, False}
    assert all("critic" in name or name.endswith((".A", ".B")) for name in model.trainable())


def test_a_width_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="hidden is 1 or more"):
        Critic(hidden=0)
