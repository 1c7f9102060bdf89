import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from everlearn.models.slots import NAME, Slots, additive, attend, attending
from everlearn.testing.toys import toy_module


def filled(rows: int, columns: int) -> DynamicCache:
    """Two layers of keys and values that tell row and column apart."""
    torch.manual_seed(0)
    cache = DynamicCache()
    for layer in range(2):
        cache.update(torch.randn(rows, 2, columns, 3).double(), torch.randn(rows, 2, columns, 5).double(), layer)
    return cache


def seen(slots: Slots, row: int, columns: int) -> list[Tensor]:
    """A row's keys and values, as attention gets them."""
    return [t for p in slots.parts for t in (p.keys[row, :, :, :columns].transpose(1, 2), p.values[row, :, :columns])]


def held(cache: DynamicCache, row: int, columns: int) -> list[Tensor]:
    return [t for p in cache.layers for t in (p.keys[row, :, :columns], p.values[row, :, :columns])]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_rows_take_slots_and_those_at_the_end_fill_the_places_of_those_that_leave() -> None:
    cache, slots = filled(5, 4), Slots(filled(1, 1), rows=6, width=7)
    slots.seat(cache, [4, 0, 1], 0)
    slots.seat(cache, [1, 3], 3)
    slots.turn([3] * 5, torch.zeros(1))
    assert all(same(seen(slots, place, 4), held(cache, row, 4)) for place, row in enumerate([4, 0, 1, 1, 3]))
    moved = slots.keep([True, False, False, True, True])
    assert sorted(moved) == [0, 3, 4]
    for place, before in enumerate(moved):
        assert same(seen(slots, place, 4), held(cache, [4, 0, 1, 1, 3][before], 4))
    assert slots.keep([False] * 3) == []


@pytest.mark.parametrize("columns", [[4, 4, 4], [4, 2, 3]])
def test_a_token_is_written_at_each_rows_own_column_and_later_ones_are_not_seen(columns: list[int]) -> None:
    cache, slots = filled(3, 4), Slots(filled(1, 1), rows=4, width=6)
    slots.seat(cache, [0, 1, 2], 0)
    positions, mask = slots.turn(columns, torch.zeros(1))
    assert positions[:, 0].tolist() == columns
    key, value = torch.randn(3, 2, 1, 3).double(), torch.randn(3, 2, 1, 5).double()
    keys, values = slots.update(key, value, 1)
    assert keys.shape == (3, 2, 5, 3)
    assert values.shape == (3, 2, 5, 5)
    for row, column in enumerate(columns):
        assert torch.equal(keys[row, :, column], key[row, :, 0])
        assert torch.equal(values[row, :, column], value[row, :, 0])
        assert torch.equal(keys[row, :, :column], cache.layers[1].keys[row, :, :column])
        unseen = [] if mask is None else torch.nonzero(mask[row, 0, 0] < 0)[:, 0].tolist()
        assert unseen == list(range(column + 1, 5))


@pytest.mark.parametrize("masked", [True, False])
def test_attention_is_softmax_of_scaled_products_with_shared_heads(masked: bool) -> None:
    torch.manual_seed(0)
    query = torch.randn(2, 6, 3, 4).double()
    key, value = torch.randn(2, 2, 5, 4).double(), torch.randn(2, 2, 5, 7).double()
    mask = additive(torch.rand(2, 1, 3, 5) < 0.4, torch.float64) if masked else None
    found, _ = attend(nn.Identity(), query, key, value, mask, scaling=0.3)
    for row in range(2):
        for head in range(6):
            scores = 0.3 * query[row, head] @ key[row, head // 3].T + (mask[row, 0] if mask is not None else 0)
            assert torch.allclose(found[row, :, head], scores.softmax(-1) @ value[row, head // 3])


def test_attention_refuses_by_name_what_it_does_not_do() -> None:
    query = torch.randn(1, 2, 1, 4)
    with pytest.raises(TypeError, match="softcap"):
        attend(nn.Identity(), query, query, query, None, softcap=30.0)  # type: ignore[call-arg]


def test_a_model_attends_so_inside_alone_and_alike() -> None:
    module, tokens = toy_module(), torch.arange(10)[None] + 6
    own, plain = module.config._attn_implementation, module(tokens).logits
    with attending(module):
        assert module.config._attn_implementation == NAME
        assert torch.allclose(module(tokens).logits, plain)
    assert module.config._attn_implementation == own != NAME
