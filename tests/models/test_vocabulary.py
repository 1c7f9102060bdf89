"""Grown vocabularies: old rows and logits to the bit, tied and untied heads, spare rows, files of transformers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from everlearn.errors import ModelError
from everlearn.examples import Batch
from everlearn.models.language_model import LanguageModel
from everlearn.models.vocabulary import GrownEmbedding, GrownHead, Growth, first_rows, grow_vocabulary, save_grown
from everlearn.models.warm_starts import mean_rows
from everlearn.testing.toys import question, toy_model, toy_tokenizer

OLD = len(toy_tokenizer())


def model_of(tied: bool = True, rows: int = OLD) -> LanguageModel:
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = LlamaConfig.from_dict(shape | {"vocab_size": rows, "tie_word_embeddings": tied, "pad_token_id": 0})
    return LanguageModel(LlamaForCausalLM(config).double().eval(), toy_tokenizer(), "small")


def logits(model: LanguageModel, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.module(input_ids=tokens).logits
    return found


def growth(tokens: tuple[str, ...], width: int = 16, tied: bool = True) -> Growth:
    rows = torch.arange(len(tokens) * width).view(len(tokens), width).double() / 100
    return Growth(tokens, rows, None if tied else -rows)


def test_two_rows_and_two_features_by_hand() -> None:
    old = nn.Embedding.from_pretrained(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    new = nn.ParameterList([nn.Parameter(torch.tensor([[5.0, 6.0]]))])
    assert GrownEmbedding(old, 2, new)(torch.tensor([[0, 2, 1]])).tolist() == [[[1, 2], [5, 6], [3, 4]]]
    head = nn.Linear(2, 2, bias=True)
    with torch.no_grad():
        head.weight.copy_(old.weight)
        head.bias.copy_(torch.tensor([10.0, 20.0]))
    # of (1, -1): 1 - 2 + 10, 3 - 4 + 20, and 5 - 6 + the mean bias 15
    assert GrownHead(head, 2, new)(torch.tensor([1.0, -1.0])).tolist() == [9, 19, 14]
    # a model with a row to spare: token 1 is new and stands in its place
    assert GrownEmbedding(old, 1, new)(torch.tensor([0, 1])).tolist() == [[1, 2], [5, 6]]
    assert GrownHead(head, 1, new)(torch.tensor([1.0, -1.0])).tolist() == [9, 14]


@pytest.mark.parametrize(("tied", "spare"), [(True, 0), (False, 0), (True, 2), (True, 9)])
def test_old_logits_are_the_same_to_the_bit_and_new_ones_follow(tied: bool, spare: int) -> None:
    model, tokens = model_of(tied, OLD + spare), torch.arange(OLD).view(3, -1)
    before = logits(model, tokens)
    kept = {n: p.clone() for n, p in model.parameters().items()}
    grow_vocabulary(model, OLD, [growth(("<a>", "<b>"), tied=tied), growth(("<c>",), tied=tied)])
    after = logits(model, tokens)
    assert torch.equal(after[..., :OLD], before[..., :OLD])
    assert after.shape[-1] == max(OLD + 3, OLD + spare)
    assert torch.equal(after[..., OLD + 3 :], before[..., OLD + 3 :])
    assert all(torch.equal(model.parameters()[n], p) for n, p in kept.items())
    with torch.no_grad():
        states = model.module.model(input_ids=tokens).last_hidden_state  # type: ignore[union-attr, operator]
    rows = torch.cat([growth(("<a>", "<b>"), tied=tied).rows, growth(("<c>",), tied=tied).rows])
    assert torch.allclose(after[..., OLD : OLD + 3], states @ (rows if tied else -rows).T)
    assert model.splits_head
    assert model.packs


def test_growing_again_changes_nothing_and_growing_on_keeps_what_was_learned() -> None:
    model, one, two = model_of(), growth(("<a>", "<b>")), growth(("<c>",))
    (rows,) = grow_vocabulary(model, OLD, [one])
    with torch.no_grad():
        rows.fill_(7.0)
    assert grow_vocabulary(model, OLD, [one])[0] is rows
    first, second = grow_vocabulary(model, OLD, [one, two])
    assert first is rows
    assert torch.equal(second, two.rows)
    assert bool((first == 7).all())
    assert model.encode(question("<a>x<c>", "<b>")).tokens.count(OLD + 1) == 1
    with pytest.raises(ModelError, match="has grown 2 times, and is asked for 1"):
        grow_vocabulary(model, OLD, [one])


def test_the_paths_of_scoring_agree_with_the_logits() -> None:
    model = model_of(tied=False)
    grow_vocabulary(model, OLD, [growth(("<a>", "<b>"), tied=False)])
    tokens = torch.tensor([[3, OLD, 9, OLD + 1, 5]])
    ones = torch.ones_like(tokens)
    batch = Batch(tokens, torch.arange(5)[None], ones, torch.tensor([[False, True, True, True, True]]))
    expected = logits(model, tokens)[0, :-1].log_softmax(-1).gather(-1, tokens[0, 1:, None])[:, 0]
    assert torch.allclose(model.token_logprobs(batch).detach(), expected)
    assert torch.allclose(model.token_scores(batch)[0], expected)
    assert torch.allclose(
        model.token_logits(batch).detach(), logits(model, tokens)[0, :-1].gather(-1, tokens[0, 1:, None])[:, 0]
    )


@pytest.mark.parametrize(("tied", "spare"), [(True, 0), (False, 0), (True, 5)])
def test_a_grown_model_is_saved_as_transformers_reads_it(tied: bool, spare: int, tmp_path: Path) -> None:
    model = model_of(tied, OLD + spare)
    grow_vocabulary(model, OLD, [growth(("<a>", "<b>"), tied=tied)])
    tokens = torch.tensor([[3, OLD, 9, OLD + 1, 5]])
    save_grown(model, tmp_path)
    read: Any = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    assert torch.allclose(read(input_ids=tokens).logits, logits(model, tokens))
    opened = LanguageModel.open(str(tmp_path), "float64", "cpu")
    assert opened.encode(question("<a>", "<b>x")) == model.encode(question("<a>", "<b>x"))
    assert isinstance(model.module.get_input_embeddings(), GrownEmbedding)  # type: ignore[operator]


def test_what_cannot_grow_is_refused() -> None:
    with pytest.raises(ModelError, match=r"cannot number \['a'\]"):
        grow_vocabulary(model_of(), OLD, [growth(("<x>", "a"))])
    with pytest.raises(ModelError, match="need rows of"):
        grow_vocabulary(model_of(), OLD, [growth(("<x>",), width=3)])
    with pytest.raises(ModelError, match="need rows of"):
        grow_vocabulary(model_of(tied=False), OLD, [growth(("<x>",))])
    with pytest.raises(ModelError, match=f"{OLD - 1} rows for {OLD} tokens"):
        grow_vocabulary(model_of(rows=OLD - 1), OLD, [growth(("<x>",))])
    model = model_of()
    grow_vocabulary(model, OLD, [growth(("<x>",))])
    with pytest.raises(ModelError, match="one method that grows"):
        grow_vocabulary(model, OLD + 1, [])


def test_rows_are_made_of_each_embedding_by_itself() -> None:
    tied, apart = toy_model(), model_of(tied=False)
    one, other = (
        first_rows(tied, ["<a>"], lambda rows: mean_rows(rows, 1)),
        first_rows(apart, ["<a>"], lambda rows: mean_rows(rows, 1)),
    )
    assert one.head is None
    assert other.head is not None
    module: Any = apart.module
    assert torch.allclose(other.rows[0], module.get_input_embeddings().weight.mean(0))
    assert torch.allclose(other.head[0], module.get_output_embeddings().weight.mean(0))
