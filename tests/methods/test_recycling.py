"""Recycled adapters: where one begins, what the old model teaches, and what does not fit."""

from pathlib import Path
from typing import Any

import pytest
import torch

from everlearn.errors import ModelError
from everlearn.learner import Learner, learn
from everlearn.method import Context, Method, chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.recycling import InheritAdapter, OldAdapterKL, require_vocabulary, teacher_weights
from everlearn.models.language_model import LanguageModel
from everlearn.models.lora import wrap
from everlearn.models.optim import AdamW, Recipe
from everlearn.models.peft_format import load_peft, read_peft
from everlearn.testing.laws import learned
from everlearn.testing.toys import toy_model, toy_stream
from everlearn.types import State
from everlearn.weights import equal
from tests.testing.lawful_recycling import ADAPTER, BASE

EXPERIENCE = toy_stream().experiences[0]


def first(method: Method, rate: float) -> tuple[LanguageModel, State]:
    learner, model = Learner("toy", method, Recipe(AdamW(learning_rate=rate), batch_size=4, length=64)), toy_model()
    return model, learn(learner, model, learner.start(model), EXPERIENCE)


def test_learning_begins_with_the_old_adapter() -> None:
    _, state = first(chain(LoRA(rank=2), InheritAdapter(ADAPTER)), 0.0)
    pairs, _, _ = read_peft(Path(ADAPTER))
    expected = {f"{layer}.{kind}": t for layer, pair in pairs.items() for kind, t in zip("AB", pair, strict=True)}
    assert equal(state.weights, expected)


def test_later_experiences_begin_where_the_last_one_ended() -> None:
    method = InheritAdapter(ADAPTER)
    ctx = Context(toy_model(), EXPERIENCE, seen=1)
    weights = {"any": torch.ones(1)}
    assert method.start(None, weights, ctx) is weights


def test_the_loss_is_the_divergence_from_the_old_base_with_its_adapter() -> None:
    model, teacher = toy_model(), LanguageModel.open(BASE, "float64", "cpu")
    load_peft(teacher.module, Path(ADAPTER))
    wrap(model.module, "all-linear", 2, 4.0)
    method, ctx = OldAdapterKL(ADAPTER, BASE, strength=3.0, temperature=2.0), Context(model, EXPERIENCE)
    memory = method.begin(method.init(model), ctx)
    batch = next(ctx.batches(EXPERIENCE.train[:1]))
    where = torch.roll(batch.supervised, -1, dims=1)
    mask = (batch.segments > 0).long()
    given: dict[str, Any] = {"input_ids": batch.tokens, "position_ids": batch.positions, "attention_mask": mask}
    logq, logp = ((m.module(**given).logits[where] / 2).log_softmax(-1) for m in (teacher, model))
    # T^2 KL(q || p) = 4 sum q (log q - log p), the mean over tokens, three times over
    expected = 3 * 4 * (logq.exp() * (logq - logp)).sum(-1).mean()
    assert torch.allclose(torch.as_tensor(method.loss(memory, batch, ctx)), expected)
    assert method.end(memory, ctx) == {"weights": {}}


def test_taught_by_itself_nothing_is_to_be_learned() -> None:
    model = LanguageModel.open(BASE, "float64", "cpu")
    load_peft(model.module, Path(ADAPTER))
    method, ctx = OldAdapterKL(ADAPTER, BASE), Context(model, EXPERIENCE)
    loss = method.loss(method.begin(None, ctx), next(ctx.batches(EXPERIENCE.train)), ctx)
    assert float(torch.as_tensor(loss).detach()) == pytest.approx(0, abs=1e-12)


def test_a_teacher_of_no_strength_teaches_nothing() -> None:
    plain, taught = LoRA(rank=2), chain(LoRA(rank=2), OldAdapterKL(ADAPTER, BASE, strength=0.0))
    assert equal(learned(plain).weights, learned(taught).weights)


def test_a_taught_model_is_nearer_to_its_teacher() -> None:
    gaps = []
    for strength in (0.0, 20.0):
        model, _ = first(chain(LoRA(rank=2), OldAdapterKL(ADAPTER, BASE, strength=strength)), 3e-2)
        method, ctx = OldAdapterKL(ADAPTER, BASE), Context(model, EXPERIENCE)
        loss = method.loss(method.begin(None, ctx), next(ctx.batches(EXPERIENCE.train)), ctx)
        gaps.append(float(torch.as_tensor(loss).detach()))
    assert gaps[1] < 0.9 * gaps[0]


@pytest.mark.parametrize("lora", [LoRA(rank=3), LoRA(rank=2, alpha=1.0), LoRA(rank=2, targets=("q_proj",))])
@pytest.mark.parametrize("method", [InheritAdapter(ADAPTER), OldAdapterKL(ADAPTER, BASE)])
def test_an_adapter_of_another_kind_is_refused(lora: LoRA, method: Method) -> None:
    with pytest.raises(ModelError, match="is not alike in"):
        first(chain(lora, method), 1e-2)


def test_another_vocabulary_is_refused() -> None:
    one, other = toy_model(), toy_model()
    other.tokenizer.add_tokens(["<new>"])
    with pytest.raises(ModelError, match=r"'<new>' \(1 in all\) is numbered otherwise"):
        require_vocabulary(one, other)
    wrap(other.module, "all-linear", 2, 4.0)
    with pytest.raises(ModelError, match="another vocabulary"):
        teacher_weights(other, Path(ADAPTER), BASE)
