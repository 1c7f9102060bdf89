"""The short cuts equal the model's own logits, and are given up where they would not."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from everlearn.data.packing import Row, collate
from everlearn.errors import ModelError
from everlearn.examples import Batch, Example
from everlearn.models.documents import block_mask
from everlearn.models.language_model import LanguageModel
from everlearn.models.logprobs import divergence_from, squared_norm
from everlearn.models.top_logits import distance_from, top_said
from everlearn.testing.toys import question, toy_folder, toy_model, toy_module, toy_tokenizer

DOCUMENTS = [Example(text=t) for t in ("the cat sat on the mat.", "a dog", "no, not again")]


class Capped(torch.nn.Module):
    """A toy whose logits are capped behind the head, as some models do."""

    base_model_prefix = "model"

    def __init__(self) -> None:
        super().__init__()
        self.inside = toy_module()
        self.model = self.inside.model

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.inside.get_input_embeddings()

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.inside.get_output_embeddings()

    def forward(self, **inputs: torch.Tensor) -> object:
        out = self.inside(**inputs)
        out.logits = 0.1 * torch.tanh(out.logits / 0.1)
        return out


class Sums(torch.nn.Module):
    """A body in which each token sees the sum of all before it in its row, whatever the mask says."""

    def __init__(self, embedding: torch.nn.Module) -> None:
        super().__init__()
        self.embedding = embedding

    def forward(self, input_ids: torch.Tensor, **_: torch.Tensor) -> object:
        return SimpleNamespace(last_hidden_state=self.embedding(input_ids).cumsum(1))


class Recurrent(Capped):
    """A toy that mixes tokens otherwise than by attention."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Sums(self.inside.get_input_embeddings())


def batch(model: LanguageModel, packed: bool) -> Batch:
    encoded = [model.encode(d) for d in DOCUMENTS]
    return collate([Row(tuple(encoded))] if packed else [Row((e,)) for e in encoded])


def logits_of(model: LanguageModel, example: Example) -> torch.Tensor:
    tokens = torch.tensor([model.encode(example).tokens])
    with torch.no_grad():
        logits: torch.Tensor = model.module(input_ids=tokens).logits[0].float()
    return logits.log_softmax(-1)[:-1].gather(-1, tokens[0, 1:, None])[:, 0].double()


def test_log_probabilities_are_those_of_each_document_alone() -> None:
    model = toy_model()
    expected = torch.cat([logits_of(model, d) for d in DOCUMENTS])
    with torch.no_grad():
        for packed in (True, False):
            torch.testing.assert_close(
                model.token_logprobs(batch(model, packed)).double(), expected, rtol=1e-5, atol=1e-6
            )


def test_a_head_that_caps_its_logits_is_not_split() -> None:
    model = LanguageModel(Capped(), toy_tokenizer(), "capped")
    assert toy_model().splits_head
    assert not model.splits_head
    expected = torch.cat([logits_of(model, d) for d in DOCUMENTS])
    with torch.no_grad():
        found = model.token_logprobs(batch(model, False))
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
    scores, _ = model.token_scores(batch(model, False))
    torch.testing.assert_close(scores.double(), expected, rtol=1e-5, atol=1e-6)


def test_a_recurrent_model_does_not_pack() -> None:
    assert toy_model().packs
    assert not LanguageModel(Recurrent(), toy_tokenizer(), "recurrent").packs


def test_a_mask_by_hand() -> None:
    def seen(segments: list[int], shared: bool = False, window: int | None = None, units: Tensor | None = None) -> Any:
        numbers = torch.tensor([segments])
        positions = torch.tensor([[0, 1, 2, 3, 2]])
        given = Batch(numbers, positions, numbers, numbers > 0, shared=shared)
        return (block_mask(given, torch.float32, window, units) == 0)[0, 0].int().tolist()

    apart = [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]]
    assert seen([1, 1, 2, 3, 0]) == apart
    assert seen([1, 1, 2, 3, 0], shared=True)[2:4] == [[1, 1, 1, 0, 0], [1, 1, 0, 1, 0]]
    two_rows = seen([1, 1, 2, 1, 2], shared=True, units=torch.tensor([[1, 1, 1, 2, 2]]))
    assert two_rows[2:] == [[1, 1, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 1, 1]]
    near = seen([1, 1, 2, 2, 3], shared=True, window=2)
    assert near == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 1, 1, 0], [0, 1, 0, 0, 1]]


def test_sampled_targets_follow_the_models_own_distribution() -> None:
    model = toy_model()
    one = collate([Row((model.encode(question("a?", "b")),))] * 600)
    with torch.no_grad():
        probabilities = model._logits(one)[0, :-1][one.supervised[0, 1:]].float().softmax(-1)
    drawn = model.sample_targets(one, torch.Generator().manual_seed(0)).view(600, -1)
    top = int(probabilities[0].argmax())
    expected = float(probabilities[0, top])
    assert (drawn[:, 0] == top).float().mean().item() == pytest.approx(expected, abs=4 * (expected / 600) ** 0.5)


def test_weights_that_do_not_fit_are_named() -> None:
    model = toy_model()
    with pytest.raises(ModelError, match=r"nowhere.*is not there"):
        model.assign({"nowhere": torch.zeros(1)})
    with pytest.raises(ModelError, match=r"has shape \(32,\)"):
        model.assign({"model.norm.weight": torch.zeros(3)})


def test_learning_is_a_mode_that_ends() -> None:
    model = toy_model()
    with model.learning():
        assert model.module.training
    assert not model.module.training


def test_a_model_is_opened_by_its_folder(tmp_path: Path) -> None:
    model = LanguageModel.open(str(toy_folder(tmp_path)), dtype="float32")
    assert model.identity == LanguageModel.open(str(tmp_path)).identity
    assert set(model.trainable()) == set(model.parameters())


@pytest.mark.parametrize("capped", [False, True])
def test_entropies_and_divergences_are_those_of_the_models_own_logits(capped: bool) -> None:
    models = [LanguageModel(Capped() if capped else toy_module(seed), toy_tokenizer(), "toy") for seed in (0, 1)]
    models[1].module.load_state_dict({n: 1.1 * p for n, p in models[1].module.state_dict().items()})
    given = batch(models[0], packed=False)
    before = torch.roll(given.supervised, -1, dims=1)
    with torch.no_grad():
        logp, logq = ((m._logits(given)[before]).log_softmax(-1) for m in models)
    entropies, divergences, same = (
        models[0].token_entropies(given),
        *(models[0].token_statistic(given, divergence_from(m.said(given), forward=False)) for m in models[::-1]),
    )
    assert entropies.requires_grad
    assert divergences.requires_grad
    assert float(divergences.detach().min()) > 0
    torch.testing.assert_close(entropies.double(), -(logp.exp() * logp).sum(-1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(divergences.double(), (logp.exp() * (logp - logq)).sum(-1), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(same.detach(), torch.zeros_like(same), rtol=0, atol=1e-6)


@pytest.mark.parametrize("capped", [False, True])
def test_statistics_are_those_of_the_models_own_logits(capped: bool) -> None:
    models = [LanguageModel(Capped() if capped else toy_module(seed), toy_tokenizer(), "toy") for seed in (0, 1)]
    given = batch(models[0], packed=True)
    before = torch.roll(given.supervised, -1, dims=1)
    logits, others = (m._logits(given)[before] for m in models)
    said = models[1].said(given)
    assert not said.states.requires_grad
    torch.testing.assert_close(said.logits(slice(0, len(others))).double(), others, rtol=1e-5, atol=1e-6)
    logp, logq = logits.log_softmax(-1), others.log_softmax(-1)
    pairs = [
        (squared_norm, ((logits - logits.mean(-1, keepdim=True)) ** 2).sum(-1)),
        (divergence_from(said), (logq.exp() * (logq - logp)).sum(-1)),
    ]
    for statistic, plain in pairs:
        found = models[0].token_statistic(given, statistic)
        assert found.requires_grad
        torch.testing.assert_close(found.double(), plain, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("capped", [False, True])
def test_target_logits_are_the_models_own(capped: bool) -> None:
    model = LanguageModel(Capped().eval(), toy_tokenizer(), "capped") if capped else toy_model()
    given = batch(model, packed=True)
    with torch.no_grad():
        logits = model._logits(given)[torch.roll(given.supervised, -1, dims=1)]
    found = model.token_logits(given)
    assert found.requires_grad
    torch.testing.assert_close(found.detach(), logits.gather(-1, given.tokens[given.supervised][:, None])[:, 0])


@pytest.mark.parametrize("capped", [False, True])
def test_distances_from_what_was_kept_are_those_of_the_models_own_logits(capped: bool) -> None:
    models = [LanguageModel(Capped() if capped else toy_module(seed), toy_tokenizer(), "toy") for seed in (0, 1)]
    models[1].module.load_state_dict({n: 1.1 * p for n, p in models[1].module.state_dict().items()})
    given = batch(models[0], packed=True)
    before = torch.roll(given.supervised, -1, dims=1)
    top = top_said(models[1].said(given), 3)
    logits = models[0]._logits(given)[before]
    q = logits.softmax(-1).gather(-1, top.ids.long())
    q, p = torch.cat([q, 1 - q.sum(-1, keepdim=True)], -1), top.values[:, :4].exp()
    plain = (p * (p / q).log()).sum(-1)
    found = models[0].token_statistic(given, distance_from(top, "kl"))
    torch.testing.assert_close(found, plain, rtol=1e-9, atol=1e-12)
    leaves = list(models[0].trainable().values())
    grads = [torch.autograd.grad(v.mean(), leaves, allow_unused=True) for v in (found, plain)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-12)
    assert float(models[1].token_statistic(given, distance_from(top, "kl")).detach().abs().max()) < 1e-12
