"""The laws of methods with one adapter for each experience."""

import pytest

from everlearn.errors import ConfigError
from everlearn.method import Method
from everlearn.methods.growing import Growing
from everlearn.methods.incremental import IncLoRA, SDLoRA
from everlearn.methods.orthogonal import NLoRA, OLoRA, SelfRegularizedCLoRA
from everlearn.models.bank import Shape
from tests.methods import summed

METHODS = [IncLoRA(2), SDLoRA(2), OLoRA(2), OLoRA(2, formula="repo", decay=0.1), NLoRA(2), SelfRegularizedCLoRA(2)]


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_folding_does_not_change_the_function(method: Method) -> None:
    summed.folds_exactly(method)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_new_adapter_at_first_does_not_change_the_function(method: Method) -> None:
    summed.begins_where_the_last_experience_ended(method)


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_a_new_experience_changes_no_bit_of_old_adapters(method: Method) -> None:
    summed.leaves_old_adapters_alone(method)


def test_the_shape_of_an_adapter_is_its_rank_and_its_scale() -> None:
    assert Growing(4).shape() == Shape(4, 2.0)
    assert Growing(4, alpha=6.0).shape() == Shape(4, 1.5)
    assert SDLoRA(4).shape() == Shape(4, 1.0, gain=0.8)


def test_a_rank_of_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match="rank is 1 or more"):
        IncLoRA(rank=0)
