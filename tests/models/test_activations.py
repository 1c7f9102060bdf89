"""Kept states: computed once for each text, exact, bounded, and never used under other weights."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from everlearn.data.packing import Row, collate
from everlearn.errors import ModelError
from everlearn.examples import Batch, Encoded
from everlearn.models.activations import FILE, Store, keeps
from everlearn.models.answers import choose, predict
from everlearn.models.bank import Shape, grow
from everlearn.models.language_model import LanguageModel
from everlearn.models.layers import below, decoder_layers
from everlearn.testing.toys import question, toy_model, toy_stream
from everlearn.types import Given, Silent
from tests.models.forked import Forked, forked_model

ROOM = 10**6


def frozen(store: Store | None = None, seed: int = 0) -> LanguageModel:
    """The toy with its lower layer frozen."""
    model = toy_model(seed)
    model.store = store
    assert model.splits_head
    assert model.packs
    for parameter in below(model.module, 1).values():
        parameter.requires_grad_(False)
    return model


@contextmanager
def counted(model: LanguageModel, layer: int) -> Iterator[list[int]]:
    """The tokens that a layer computes in each of its passes."""
    seen: list[int] = []
    mine = decoder_layers(model.module)[layer]
    own = mine.forward

    def forward(hidden_states: Tensor, *rest: object, **named: object) -> object:
        seen.append(hidden_states.shape[0] * hidden_states.shape[1])
        return own(hidden_states, *rest, **named)

    mine.forward = forward  # type: ignore[method-assign]
    try:
        yield seen
    finally:
        del mine.forward


def text(*tokens: int) -> Encoded:
    return Encoded(tokens, (False, *(True,) * (len(tokens) - 1)))


def packed() -> Batch:
    """Two rows of different length, of which the first holds two documents."""
    return collate([Row((text(7, 8, 9, 10), text(11, 12, 13))), Row((text(20, 21, 22),))])


def test_packed_and_padded_rows_get_the_scores_of_a_whole_pass() -> None:
    model = frozen(Store(ROOM))
    whole = model.token_logprobs(packed())
    with model.keeping():
        kept = model.token_logprobs(packed())
        again = model.token_logprobs(packed())
    torch.testing.assert_close(kept, whole, rtol=0, atol=1e-12)
    assert torch.equal(kept, again)


def test_gradients_are_those_of_a_whole_pass() -> None:
    model = frozen(Store(ROOM))
    parameters = list(model.trainable().values())
    whole = torch.autograd.grad(model.token_logprobs(packed()).sum(), parameters)
    with model.keeping():
        kept = torch.autograd.grad(model.token_logprobs(packed()).sum(), parameters)
    torch.testing.assert_close(kept, whole, rtol=0, atol=1e-10)


def test_each_text_is_computed_once_whatever_batch_it_comes_in() -> None:
    model = frozen(Store(ROOM))
    with model.keeping(), counted(model, 0) as passes:
        model.token_logprobs(packed())
        assert passes == [4, 3, 3]
        model.token_logprobs(collate([Row((text(20, 21, 22), text(7, 8, 9, 10)))]))
        assert passes == [4, 3, 3]
        model.token_logprobs(collate([Row((text(20, 21, 23),))]))
        assert passes == [4, 3, 3, 3]


def test_states_serve_the_next_time_too_but_not_under_other_weights() -> None:
    store = Store(ROOM)
    model = frozen(store)
    with model.keeping():
        model.token_logprobs(packed())
    with model.keeping(), counted(model, 0) as passes:
        model.token_logprobs(packed())
    assert passes == []
    with torch.no_grad():
        next(iter(decoder_layers(model.module)[0].parameters()))[0] += 1e-9
    whole = model.token_logprobs(packed())
    with model.keeping(), counted(model, 0) as passes:
        torch.testing.assert_close(model.token_logprobs(packed()), whole, rtol=0, atol=1e-12)
    assert passes == [4, 3, 3]


def test_a_change_above_leaves_states_in_use() -> None:
    model = frozen(Store(ROOM))
    with model.keeping():
        model.token_logprobs(packed())
    with torch.no_grad():
        next(iter(decoder_layers(model.module)[1].parameters()))[0] += 1
    with model.keeping(), counted(model, 0) as passes:
        model.token_logprobs(packed())
    assert passes == []


@pytest.mark.parametrize(("layer", "computed"), [(1, []), (0, [4, 3, 3])])
def test_what_joins_above_leaves_states_in_use_and_below_it_does_not(layer: int, computed: list[int]) -> None:
    model, last = frozen(Store(ROOM)), list[int]()
    for shapes in ((Shape(2),), (Shape(2), Shape(3))):
        grow(model.module, (f"layers.{layer}.mlp.up_proj",), shapes)
        decoder_layers(model.module)[0].requires_grad_(False)
        decoder_layers(model.module)[1].requires_grad_(True)
        with model.keeping(), counted(model, 0) as passes:
            model.token_logprobs(packed())
        last = passes
    assert last == computed


def test_choices_over_a_shared_prompt_and_texts_get_the_replies_of_a_whole_pass() -> None:
    model = frozen(Store(ROOM))
    offered = Given(("this", "that one", "no"))
    asked = [(question("which is it?", "this"), offered), (question("and now?", "that"), offered)]
    texts = [(e, Given()) for e in toy_stream().experiences[1].test]
    whole = choose(model, asked, 256, Silent()), predict(model, texts, 256, Silent())
    with model.keeping():
        kept = choose(model, asked, 256, Silent()), predict(model, texts, 256, Silent())
        with counted(model, 0) as passes:
            choose(model, asked, 256, Silent())
    assert kept[0] == whole[0]
    assert [r.loss for r in kept[1]] == pytest.approx([r.loss for r in whole[1]], abs=1e-12)
    assert passes == []


def test_states_made_in_inference_can_be_learned_from() -> None:
    model = frozen(Store(ROOM))
    with model.keeping():
        model.token_scores(packed())
        torch.autograd.grad(model.token_logprobs(packed()).sum(), list(model.trainable().values()))


def test_nothing_is_kept_without_a_store_or_where_the_lowest_layer_learns() -> None:
    learning = toy_model()
    learning.store = Store(ROOM)
    assert learning.splits_head
    assert learning.packs
    for model in (frozen(None), learning):
        with model.keeping(), counted(model, 0) as passes:
            model.token_logprobs(packed())
            model.token_logprobs(packed())
        assert len(passes) == 2
    assert not keeps(toy_model().module)
    assert keeps(frozen().module)


def test_what_drops_at_random_is_computed_anew_while_learning() -> None:
    model = frozen(Store(ROOM))
    decoder_layers(model.module)[0].get_submodule("self_attn").attention_dropout = 0.5
    with model.keeping(), counted(model, 0) as passes:
        with model.learning():
            first, second = model.token_logprobs(packed()), model.token_logprobs(packed())
        assert not torch.equal(first, second)
        assert passes == [10, 10]  # all documents in one row
        model.token_logprobs(packed())
        assert passes == [10, 10, 4, 3, 3]


def test_memory_is_bounded_and_what_has_no_room_is_computed_again() -> None:
    states = 32 * 8  # bytes of a token's state
    model = frozen(Store(5 * states))
    whole = model.token_logprobs(packed())
    with model.keeping(), counted(model, 0) as passes:
        model.token_logprobs(packed())
        kept = model.token_logprobs(packed())
    assert model.store is not None
    assert (len(model.store), model.store.used) == (1, 4 * states)
    assert passes == [4, 3, 3, 3, 3]
    torch.testing.assert_close(kept, whole, rtol=0, atol=1e-12)


def test_states_of_other_weights_make_room() -> None:
    store, states = Store(1000), torch.zeros(10, 10)
    store.put("old", "a", states)
    store.put("old", "b", states)
    store.put("new", "c", states)
    assert store.get("old", "a") is None
    assert store.get("new", "c") is states
    assert store.used == 400


def test_disk_takes_what_memory_has_no_room_for_and_serves_other_processes(tmp_path: Path) -> None:
    states = torch.arange(12.0).view(3, 4).bfloat16()
    Store(0, tmp_path, 10**4).put("w", "a", states)
    other = Store(0, tmp_path, 10**4)
    found = other.get("w", "a")
    assert found is not None
    assert torch.equal(found, states)
    assert other.get("w", "b") is None


def test_disk_is_bounded_and_other_weights_go_first(tmp_path: Path) -> None:
    store = Store(0, tmp_path, 1000)
    for name in "abc":
        store.put("old", name, torch.zeros(100))
    assert [store.get("old", name) is not None for name in "abc"] == [True, True, False]
    store.put("new", "d", torch.zeros(100))
    assert store.get("old", "a") is None
    assert store.get("new", "d") is not None


def test_a_file_that_is_no_store_is_an_error_with_its_name(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"this is not a database, and it is long enough to be looked at" * 20)
    with pytest.raises(ModelError, match=FILE):
        Store(0, tmp_path, 1000)
    assert sqlite3.sqlite_version


@pytest.mark.parametrize("kind", ["weights", "leads", "both"])
def test_under_a_router_what_it_cannot_reach_is_computed_once(kind: str) -> None:
    model = forked_model(kind)
    model.store = Store(ROOM)
    lowest = decoder_layers(model.module)[0]
    if isinstance(lowest.mlp.up_proj, Forked):
        lowest.mlp.up_proj = lowest.mlp.up_proj.base
    decoder_layers(model.module)[1].requires_grad_(True)  # soft prompts have left nothing to learn but themselves
    for parameter in below(model.module, 1).values():
        parameter.requires_grad_(False)
    whole = model.token_logprobs(packed())
    with model.keeping():
        first = model.token_logprobs(packed())
        with counted(model, 0) as seen:
            again = model.token_logprobs(packed())
    assert len(model.store) == 3
    assert seen == []
    torch.testing.assert_close(first, whole, rtol=0, atol=1e-12)
    assert torch.equal(first, again)


def test_what_a_router_reaches_is_not_kept() -> None:
    model = forked_model("weights")
    model.store = Store(ROOM)
    for parameter in below(model.module, 1).values():
        parameter.requires_grad_(False)
    whole = model.token_logprobs(packed())
    with model.keeping():
        assert torch.equal(model.token_logprobs(packed()), whole)
    assert len(model.store) == 0
