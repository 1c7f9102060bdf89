"""A padded batch read in fewer rows: the same states at every token, and hardly any padding computed."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, MistralConfig, MistralForCausalLM

from everlearn.data.packing import Row, collate
from everlearn.examples import Batch, Encoded
from everlearn.methods.freezing import Freeze
from everlearn.models.activations import Store
from everlearn.models.dense import dense
from everlearn.models.documents import windows
from everlearn.models.language_model import LanguageModel
from everlearn.testing.toys import toy_model, toy_tokenizer
from tests.models.forked import forked_model
from tests.models.test_activations import counted

SIZES = (9, 3, 2, 4, 2)


def document(size: int, start: int = 3) -> Encoded:
    return Encoded(tuple(range(start, start + size)), (False,) + (True,) * (size - 1))


def padded() -> Batch:
    return collate([Row((document(n, 3 + n),)) for n in SIZES])


def packed() -> Batch:
    rows = [(9,), (2, 3), (4,), (2,)]
    return collate([Row(tuple(document(n, 3 + n) for n in sizes)) for sizes in rows])


def branched() -> Batch:
    rows = [(5, 4, 3, 3, 2), (2, 2), (2, 1, 3), (2, 2)]
    return collate([Row(tuple(document(n, 3 + n) for n in sizes)) for sizes in rows], shared=True)


BATCHES = {"padded": padded, "packed": packed, "branched": branched}


def rows_read(model: LanguageModel, batch: Batch) -> tuple[int, torch.Tensor]:
    """How many rows the model's layers were given, and the last hidden states of what is no padding."""
    read = list[int]()
    watch = model.module.get_input_embeddings().register_forward_hook(  # type: ignore[operator]
        lambda layer, given, out: read.append(len(given[0]))
    )
    try:
        states = model.hidden(batch)[batch.segments > 0]
    finally:
        watch.remove()
    return read[-1], states


def test_rows_by_hand() -> None:
    laid = dense(padded())
    assert laid is not None
    assert laid.units.tolist() == [[1] * 9 + [4] * 4 + [2] * 3 + [3] * 2 + [5] * 2]
    assert laid.batch.tokens.tolist() == [[*range(12, 21), *range(7, 11), *range(6, 9), 5, 6, 5, 6]]
    assert laid.batch.positions.tolist() == [[*range(9), *range(4), *range(3), 0, 1, 0, 1]]
    values = torch.arange(45.0).view(5, 9, 1)
    there = padded().segments > 0
    torch.testing.assert_close(laid.own(laid.laid(values))[there], values[there], rtol=0, atol=0)
    by_row = torch.tensor([[[1.0, 10]], [[2, 20]], [[3, 30]], [[4, 40]], [[5, 50]]])
    assert laid.laid(by_row)[0, 8:18, 0].tolist() == [1, 4, 4, 4, 4, 2, 2, 2, 3, 3]


def test_long_rows_stand_beside_one_another() -> None:
    sizes = (400, 260, 200, 150, 90, 30)
    laid = dense(collate([Row((document(n),)) for n in sizes]))
    assert laid is not None
    assert laid.units.shape == (3, 400)
    assert [row.unique().tolist() for row in laid.units] == [[1], [0, 2, 5, 6], [0, 3, 4]]
    assert sorted(laid.units[laid.units > 0].tolist()) == [i + 1 for i, n in enumerate(sizes) for _ in range(n)]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_every_token_has_a_place_of_its_own(sizes: list[int]) -> None:
    batch = collate([Row((document(n),)) for n in sizes])
    laid = dense(batch)
    if laid is not None:
        numbers, there = torch.arange(batch.tokens.numel()).view_as(batch.tokens), batch.segments > 0
        assert torch.equal(laid.own(laid.laid(numbers))[there], numbers[there])
        assert torch.equal(laid.own(laid.batch.tokens)[there], batch.tokens[there])
        assert int((laid.units > 0).sum()) == sum(sizes)


def test_a_batch_that_is_full_is_left_as_it_is() -> None:
    assert dense(collate([Row((document(512),)), Row((document(460),))])) is None
    assert dense(collate([Row((document(8),))])) is None


@pytest.mark.parametrize("kind", BATCHES)
def test_every_token_gets_the_state_that_it_gets_in_a_padded_batch(kind: str) -> None:
    model, batch = toy_model(1), BATCHES[kind]()
    with model.padded():
        count, expected = rows_read(model, batch)
    fewer, found = rows_read(model, batch)
    assert count == len(batch.tokens) > fewer
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_gradients_are_those_of_the_padded_batch() -> None:
    model = toy_model(1)
    weights = list(model.trainable().values())
    with model.padded():
        expected = torch.autograd.grad(model.token_logprobs(padded()).mean(), weights)
    found = torch.autograd.grad(model.token_logprobs(padded()).mean(), weights)
    for mine, other in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("routes", ["weights", "leads", "both"])
@pytest.mark.parametrize("kind", BATCHES)
def test_each_document_keeps_its_route(kind: str, routes: str) -> None:
    model, batch = forked_model(routes), BATCHES[kind]()
    with model.padded():
        _, expected = rows_read(model, batch)
    fewer, found = rows_read(model, batch)
    assert fewer < len(batch.tokens)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", BATCHES)
def test_states_that_are_kept_serve_rows_that_are_laid_together(kind: str) -> None:
    model, batch = toy_model(1), BATCHES[kind]()
    assert model.packs  # probed now, so that the probe's passes are not counted
    model.store = Store(10**6)
    Freeze(below=1).params(None, model)
    with model.padded():
        expected = model.hidden(batch)[batch.segments > 0]
    with model.keeping(), counted(model, 0) as passes:
        for _ in range(2):
            fewer, found = rows_read(model, batch)
            assert fewer < len(batch.tokens)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert 0 < sum(passes) <= int((batch.segments > 0).sum()), "no token twice, and no padding"


@pytest.mark.parametrize("alternating", [False, True])
@pytest.mark.parametrize("kind", BATCHES)
def test_layers_that_see_a_window_alone_keep_it(kind: str, alternating: bool) -> None:
    torch.manual_seed(0)
    size = {"vocab_size": 30, "hidden_size": 32, "num_hidden_layers": 4, "intermediate_size": 64, "head_dim": 8}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 3, "pad_token_id": 0}
    asked: dict[str, Any] = {**size, **heads}
    module: Any = MistralForCausalLM(MistralConfig(**asked))
    if alternating:
        module = Gemma3ForCausalLM(Gemma3TextConfig(**asked, query_pre_attn_scalar=8, sliding_window_pattern=2))
    for weight in module.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    model, batch = LanguageModel(module.double().eval(), toy_tokenizer(), "windowed"), BATCHES[kind]()
    assert len(windows(module)) == 1 + alternating
    with torch.no_grad():
        for found, tokens, segments in zip(model.hidden(batch), batch.tokens, batch.segments, strict=True):
            for number in range(1, int(segments.max()) + 1):
                before = tokens[segments == 1] if batch.shared and number > 1 else tokens[:0]
                whole = torch.cat([before, tokens[segments == number]])[None]
                own = module.model(whole).last_hidden_state[0, len(before) :]
                torch.testing.assert_close(found[segments == number], own, rtol=0, atol=1e-9)
