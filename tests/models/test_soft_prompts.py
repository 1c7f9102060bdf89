"""Soft prompts are tokens beyond the vocabulary."""

import pytest
import torch

from everlearn.errors import ModelError
from everlearn.models.soft_prompts import prompted
from everlearn.testing.toys import toy_model


def test_ids_beyond_the_vocabulary_are_read_as_the_prompts_vectors() -> None:
    model = toy_model()
    plain = model.module.get_input_embeddings().weight.detach().clone()  # type: ignore[operator]
    layer = prompted(model, [2, 3])
    v = layer.num_embeddings
    assert (v, list(layer.ids(0)), list(layer.ids(1))) == (len(plain), [v, v + 1], [v + 2, v + 3, v + 4])
    found = layer(torch.tensor([[5, v + 4], [v, 6]]))
    assert torch.equal(found[0, 0], plain[5])
    assert torch.equal(found[0, 1], layer.prompts[1][2])
    assert torch.equal(found[1], torch.stack([layer.prompts[0][0], plain[6]]))
    assert set(model.trainable()) == {"model.embed_tokens.prompts.0", "model.embed_tokens.prompts.1"}
    assert all((plain == vector).all(1).any() for prompt in layer.prompts for vector in prompt), "tokens, at first"


def test_the_model_without_prompts_in_front_is_the_model() -> None:
    plain, model = toy_model(), toy_model()
    prompted(model, [4])
    tokens = torch.tensor([[7, 8, 9]])
    assert torch.equal(model.module(input_ids=tokens).logits, plain.module(input_ids=tokens).logits)
    assert model.splits_head
    assert model.packs


def test_asking_again_keeps_what_is_there_adds_what_is_missing_and_takes_away_what_is_more() -> None:
    model = toy_model()
    first = prompted(model, [2]).prompts[0].detach().clone()
    layer = prompted(model, [2, 3])
    assert torch.equal(layer.prompts[0], first)
    assert [len(p) for p in prompted(model, [2]).prompts] == [2]
    with pytest.raises(ModelError, match=r"soft prompts of \[2\] vectors and cannot have \[3\]"):
        prompted(model, [3])
