"""A model recalls old weights exactly, and nothing outside notices."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from everlearn.data.packing import Row, collate
from everlearn.errors import ModelError
from everlearn.examples import Batch, Example
from everlearn.models.engine import Engine
from everlearn.models.language_model import LanguageModel
from everlearn.models.lora import wrap
from everlearn.models.recall import recalled
from everlearn.testing.toys import toy_model, toy_module, toy_stream, toy_tokenizer

DOCUMENT = Example(text="the cat sat on the mat.")


def some_batch(model: LanguageModel) -> Batch:
    return collate([Row((model.encode(DOCUMENT),), (DOCUMENT,))])


def shaken(model: LanguageModel, seed: int = 0) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {n: p.detach() + 0.1 * torch.randn(p.shape, generator=rng).to(p) for n, p in model.trainable().items()}


@pytest.mark.parametrize("adapted", [False, True], ids=["full", "LoRA"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_what_is_recalled_is_said_bit_for_bit(adapted: bool, dtype: torch.dtype) -> None:
    model = toy_model(dtype=dtype)
    if adapted:
        wrap(model.module, "all-linear", 2, 4.0, dropout=0.5)
    given, old, new = some_batch(model), shaken(model), shaken(model, 1)
    model.assign(old)
    expected = model.token_logprobs(given).detach()
    model.assign(new)
    with model.learning():
        drawn = torch.random.get_rng_state()
        with recalled(model, old), torch.no_grad():
            assert not model.module.training
            assert torch.equal(model.token_logprobs(given), expected)
        assert model.module.training
        assert torch.equal(torch.random.get_rng_state(), drawn)
    assert not torch.equal(model.token_logprobs(given).detach(), expected)


def test_nothing_outside_notices() -> None:
    model = toy_model()
    given, old, new = some_batch(model), shaken(model), shaken(model, 1)
    model.assign(new)
    before, names = model.trainable(), list(model.parameters())
    loss = model.token_logprobs(given).sum()
    with recalled(model, old):
        model.token_logprobs(given)
        assert not model.trainable()
    assert list(model.parameters()) == names
    assert all(model.trainable()[name] is p for name, p in before.items())
    assert all(torch.equal(p, new[name]) for name, p in before.items())
    with_interlude = torch.autograd.grad(loss, list(before.values()))
    without = torch.autograd.grad(model.token_logprobs(given).sum(), list(before.values()))
    assert all(torch.equal(a, b) for a, b in zip(with_interlude, without, strict=True))


def test_it_ends_with_an_error_too() -> None:
    model = toy_model()
    before = model.trainable()
    with pytest.raises(RuntimeError, match="on the way"), recalled(model, shaken(model)):
        raise RuntimeError("on the way")
    assert all(model.trainable()[name] is p for name, p in before.items())


def test_weights_of_another_shape_are_refused() -> None:
    model = toy_model()
    for misfit in ({"nowhere": torch.ones(1)}, {"model.norm.weight": torch.ones(3)}):
        with pytest.raises(ModelError, match="do not fit toy as it is now"), recalled(model, misfit):
            pass


@pytest.mark.parametrize("teacher_first", [True, False])
def test_states_that_are_kept_are_nobody_elses(teacher_first: bool) -> None:
    """Below the cut a version that moved there says what it says, and the model what it says, in whatever order."""
    model = LanguageModel(toy_module(), toy_tokenizer(), "toy", Engine(activations=1.0).store())
    model.module.requires_grad_(False)
    for name, parameter in model.parameters().items():
        parameter.requires_grad_("layers.1." in name)  # the cut is above the first layer
    batch = collate([Row((model.encode(e),)) for e in toy_stream().experiences[0].train])
    moved = {name: p.detach() + 0.05 for name, p in model.parameters().items() if "layers.0." in name}
    with torch.no_grad():
        own = model.token_logprobs(batch)
        with recalled(model, moved):
            other = model.token_logprobs(batch)
    assert (own - other).abs().max() > 1e-3

    def said(old: bool) -> Tensor:
        with torch.no_grad(), recalled(model, moved) if old else nullcontext():
            return model.token_logprobs(batch)

    with model.keeping():
        found = {old: said(old) for old in (teacher_first, not teacher_first)}
    torch.testing.assert_close(found[True], other)
    torch.testing.assert_close(found[False], own)
    with model.keeping():
        torch.testing.assert_close(said(False), own)
