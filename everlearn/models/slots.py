"""Keys and values of rows in decoding, in one place that is made once, and the attention that reads them.

A row has a slot, and its token at position p lies in the slot's column p: rows of different lengths stand side by side
without padding, and a row that joins or leaves copies its own columns alone. The rows in use are always the first, so
that attention sees them, up to the longest row's last column, as a view. Keys lie with their columns last, the order
in which a processor multiplies them fastest (1.4 times at 32 rows of 96 columns).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, Cache
from transformers.cache_utils import CacheLayerMixin
from transformers.masking_utils import eager_mask

CausalLM = Any
"""A causal language model of transformers; its base classes do not type what all of them have."""

KeyValues = Any
"""A cache of transformers with keys and values in each of its layers; its types allow for layers without."""

NAME = "everlearn_slots"
"""What transformers knows `attend` by."""


class _Place:
    """Where the next tokens go, for all layers: the first `rows` slots, each at its own column."""

    def __init__(self) -> None:
        self.rows = self.used = 0
        self.columns = torch.zeros(0, dtype=torch.long)
        self.level: int | None = None  # the column, where it is the same for all

    def turn(self, columns: Sequence[int], device: torch.device) -> None:
        self.rows, self.used = len(columns), max(columns) + 1
        self.columns = torch.tensor(columns, device=device)
        self.level = columns[0] if min(columns) == max(columns) else None


class _SlotLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """One layer's part.

    Args:
        keys: (rows, heads, D, columns).
        values: (rows, heads, columns, D).
        place: where to write and how far to read.
    """

    is_sliding = False

    def __init__(self, keys: Tensor, values: Tensor, place: _Place) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.keys: Tensor = keys
        self.values: Tensor = values
        self.place, self.is_initialized = place, True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing: a layer is made whole."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: object) -> tuple[Tensor, Tensor]:
        """Write one token of each row, (n, heads, 1, D); all so far, (n, heads, used, D), as views."""
        at, n = self.place, self.place.rows
        if at.level is not None:
            self.keys[:n, :, :, at.level] = key_states[:, :, 0]
            self.values[:n, :, at.level] = value_states[:, :, 0]
        else:
            rows = torch.arange(n, device=at.columns.device)
            self.keys[rows, :, :, at.columns] = key_states[:, :, 0]
            self.values[rows, :, at.columns] = value_states[:, :, 0]
        return self.keys[:n, :, :, : at.used].transpose(2, 3), self.values[:n, :, : at.used]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of what is seen."""
        return self.place.used, 0

    def get_seq_length(self) -> int:
        """Columns before the token that is read."""
        return self.place.used - 1

    def get_max_length(self) -> int:
        """Columns of a slot."""
        return self.values.shape[2]


class Slots(Cache):
    """Keys and values of up to `rows` rows of up to `width` tokens, of the shapes that a first cache has.

    Args:
        like: a cache with keys and values of each layer.
        rows: slots.
        width: columns of a slot.
    """

    def __init__(self, like: KeyValues, rows: int, width: int) -> None:
        self.place = _Place()
        self.parts: list[_SlotLayer] = []
        for one in like.layers:
            (_, heads, _, inner), outer = one.keys.shape, one.values.shape[-1]
            # Zeros, since a weight of zero times what memory happens to hold could be no number.
            keys = one.keys.new_zeros(rows, heads, inner, width)
            self.parts.append(_SlotLayer(keys, one.values.new_zeros(rows, heads, width, outer), self.place))
        super().__init__(layers=list(self.parts))

    def seat(self, cache: KeyValues, rows: Sequence[int], first: int) -> None:
        """Copy rows of a cache, whose columns are positions, into slots from `first` on."""
        here = slice(first, first + len(rows))
        for mine, theirs in zip(self.parts, cache.layers, strict=True):
            known = theirs.keys.shape[2]
            mine.keys[here, :, :, :known] = theirs.keys[list(rows)].transpose(2, 3)
            mine.values[here, :, :known] = theirs.values[list(rows)]

    def keep(self, alive: Sequence[bool]) -> list[int]:
        """Let rows leave: rows from the end move into their slots. For each slot from the first, whose row is there."""
        count = sum(alive)
        holes = [i for i in range(count) if not alive[i]]
        movers = [i for i in range(count, len(alive)) if alive[i]]
        if holes:
            for layer in self.parts:
                layer.keys[holes, :, :, : self.place.used] = layer.keys[movers, :, :, : self.place.used]
                layer.values[holes, :, : self.place.used] = layer.values[movers, :, : self.place.used]
        taken = dict(zip(holes, movers, strict=True))
        return [taken.get(i, i) for i in range(count)]

    def turn(self, columns: Sequence[int], like: Tensor) -> tuple[Tensor, Tensor | None]:
        """Make ready for one token of each of the first rows, at the given columns.

        Returns:
            Their positions (n, 1), and an additive mask (n, 1, 1, used) of `like`'s dtype, or None where all is seen.
        """
        self.place.turn(columns, like.device)
        positions = self.place.columns[:, None]
        if self.place.level is not None:
            return positions, None
        unseen = torch.arange(self.place.used, device=like.device) > positions
        return positions, additive(unseen[:, None, None], like.dtype)


def additive(unseen: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask to add to scores: 0, and the dtype's lowest number at what is not to be seen."""
    return torch.zeros(unseen.shape, dtype=dtype, device=unseen.device).masked_fill_(unseen, torch.finfo(dtype).min)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    position_ids: Tensor | None = None,
    use_cache: bool | None = None,
    sliding_window: int | None = None,
) -> tuple[Tensor, None]:
    """Grouped-query attention without a copy of keys and values for each query head; for inference.

    Models call it with the arguments of their own attention. One that asks for more than there is here (a cap on
    scores, sinks) fails by the name of the argument, which is how it is told that it cannot be read this way.

    Args:
        module: the model's attention.
        query: (n, heads, T, D).
        key: (n, fewer heads, S, D).
        value: (n, fewer heads, S, D').
        attention_mask: additive, (n or 1, 1, T, S), or None.
        scaling: of scores; None takes D^-1/2.
        dropout: none in inference.
        position_ids: not used; the mask says what is seen.
        use_cache: not used.
        sliding_window: not used; the mask says what is seen.

    Returns:
        (n, T, heads, D'), and no weights.
    """
    (n, heads, length, inner), groups = query.shape, key.shape[1]
    scale = inner**-0.5 if scaling is None else scaling
    if query.device.type != "cpu":
        found = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, scale=scale, enable_gqa=groups != heads
        )
        return found.transpose(1, 2), None
    rows = (query * scale).reshape(n * groups, heads // groups * length, inner)
    scores = torch.bmm(rows, key.flatten(0, 1).transpose(1, 2)).view(n, heads, length, key.shape[2])
    if attention_mask is not None:
        scores += attention_mask
    weights = scores.softmax(-1).view(n * groups, heads // groups * length, key.shape[2])
    found = torch.bmm(weights, value.flatten(0, 1))
    return found.view(n, heads, length, value.shape[3]).transpose(1, 2), None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, eager_mask)  # else a pass without a mask of ours would see what is to come


@contextmanager
def attending(module: CausalLM) -> Iterator[None]:
    """Inside, the model's layers attend by `attend`."""
    own = module.config._attn_implementation
    module.set_attn_implementation(NAME)
    try:
        yield
    finally:
        module.set_attn_implementation(own)
