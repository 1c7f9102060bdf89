"""The value head: what it reads, and that the policy is none of its business."""

import pytest
import torch

from everlearn.data.packing import Row, collate
from everlearn.errors import ModelError
from everlearn.examples import Encoded
from everlearn.models.value_head import ValueHead, attach, values
from everlearn.testing.toys import toy_model

BATCH = collate([Row((Encoded((5, 6, 7, 8), (False, False, True, True)),))])


def test_it_begins_at_nothing_and_is_there_once() -> None:
    model = toy_model()
    head = attach(model, 4)
    assert attach(model, 9) is head
    assert values(model, BATCH).tolist() == [0.0, 0.0]
    assert {name for name in model.parameters() if "critic" in name} == {
        "critic.inner",
        "critic.inner_bias",
        "critic.outer",
        "critic.outer_bias",
    }


def test_it_reads_what_stands_before_each_token_by_hand() -> None:
    model = toy_model()
    head = attach(model, 4)
    with torch.no_grad():
        head.outer.fill_(1.0)
    states = model.hidden(BATCH)[0, 1:3]  # before tokens 7 and 8
    normal = (states - states.mean(-1, keepdim=True)) / (states.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    expected = torch.tanh(normal @ head.inner.T).sum(-1)
    torch.testing.assert_close(values(model, BATCH), expected)


def test_its_error_does_not_reach_the_policy() -> None:
    model = toy_model()
    head = attach(model, 4)
    with torch.no_grad():
        head.outer.fill_(1.0)
    values(model, BATCH).sum().backward()
    assert {name for name, p in model.parameters().items() if p.grad is not None} == {
        name for name in model.parameters() if "critic" in name
    }


def test_its_first_weights_are_the_same_each_time() -> None:
    assert ValueHead(8, 4).inner.equal(ValueHead(8, 4).inner)
    assert not ValueHead(8, 4).inner.equal(ValueHead(8, 4, seed=1).inner)


def test_a_model_without_one_says_what_to_do() -> None:
    with pytest.raises(ModelError, match=r"put Critic\(\) into the method"):
        values(toy_model(), BATCH)
