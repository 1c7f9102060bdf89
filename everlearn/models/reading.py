"""What a model makes of tokens in decoding: prompts are read together, then one token of each row at a time.

What prompts begin with alike is read once. A model is read this way only if its one state is the keys and values of
all tokens, and if a probe gives the scores that it gives by itself; `everlearn.models.library` decodes with others.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from everlearn.models.language_model import LanguageModel
from everlearn.models.routes import placed
from everlearn.models.slots import CausalLM, KeyValues, Slots, additive, attending

Tokens = Sequence[int]

CLOSE = 8
"""Tokens that are scored again in float32."""

CHUNK = 512
"""States scored at a time: 512 x 49152 scores are 50 MB in half precision."""

APART = 64
"""Tokens that have to be saved before a shared beginning is worth a pass of its own."""

_FITS: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


@dataclass(frozen=True)
class Head:
    """From states to scores of the vocabulary.

    Args:
        layer: the output embedding, or None where states are scores already.
    """

    layer: nn.Linear | None

    def scores(self, states: Tensor) -> Tensor:
        """(n, V) of (n, D), in the model's precision, as a loss computes them."""
        found: Tensor = states if self.layer is None else self.layer(states)
        return found

    def best(self, states: Tensor) -> Tensor:
        """(n,) the token with the highest score for each state."""
        if self.layer is None:
            return states.argmax(-1)
        weight, bias = self.layer.weight, self.layer.bias
        return torch.cat([most_probable(part, weight, bias) for part in torch.split(states, CHUNK)])


class Reader:
    """A model that reads tokens into caches.

    Args:
        model: who reads; it has to pass `reads_by_slots`.
    """

    def __init__(self, model: LanguageModel) -> None:
        module: CausalLM = model.module
        self.module = module
        self.head = Head(module.get_output_embeddings() if model.splits_head else None)
        self._weight: Tensor = module.get_input_embeddings().weight
        self._begun: tuple[Tokens, DynamicCache] = ((), DynamicCache())
        self._router, self._weighed = model.router, False

    @property
    def device(self) -> torch.device:
        """Where the model reads."""
        return self._weight.device

    @contextmanager
    def weighing(self, weights: Sequence[Tensor | None]) -> Iterator[None]:
        """Inside, each text or row that is read has its own weights of adapters, in their order."""
        self._weighed = any(w is not None for w in weights)
        with placed(self._router, weights):
            yield
        self._weighed = False

    def read(self, texts: Sequence[Tokens], where: Sequence[tuple[int, int]]) -> tuple[DynamicCache, Tensor]:
        """Read texts from their beginnings.

        Args:
            texts: none empty.
            where: rows and columns.

        Returns:
            Keys and values, a row for each text and a column for each position; and the states at `where`.
        """
        shared, start = self._share(texts, min(column for _, column in where))
        width = max(map(len, texts)) - shared
        padded = [[*text[shared:], *[0] * (width + shared - len(text))] for text in texts]
        cache = _copy(start, shared, len(texts))
        states = self._pass(padded, shared, cache, [(row, column - shared) for row, column in where])
        return cache, states

    def step(self, slots: Slots, tokens: Tokens, columns: Sequence[int]) -> Tensor:
        """Read one token of each of the first slots, at its column; the states after them, (n, ...)."""
        positions, mask = slots.turn(columns, self._weight)
        last = torch.tensor(tokens, device=self.device)[:, None]
        return self._states(last, positions, mask, slots, [(row, 0) for row in range(len(tokens))])

    def _share(self, texts: Sequence[Tokens], most: int) -> tuple[int, DynamicCache]:
        """How many tokens of all texts are known, and a cache that begins with them."""
        if self._weighed:  # what texts begin with alike is not the same under other weights
            return 0, DynamicCache()
        (begun, cache), alike = self._begun, min(most, *(agree(texts[0], text) for text in texts))
        known = min(agree(begun, texts[0]), alike)
        if (alike - known) * (len(texts) - 1) < APART:
            return known, cache
        cache = _copy(cache, known, 1)
        self._pass([list(texts[0][known:alike])], known, cache, [(0, 0)])
        self._begun = (tuple(texts[0][:alike]), cache)
        return alike, cache

    def _pass(
        self, rows: Sequence[Tokens], known: int, cache: DynamicCache, where: Sequence[tuple[int, int]]
    ) -> Tensor:
        """Read rows of equal length behind `known` columns."""
        tokens = torch.tensor(rows, device=self.device)
        positions = torch.arange(known, known + tokens.shape[1], device=tokens.device)
        ahead = torch.arange(known + tokens.shape[1], device=tokens.device) > positions[:, None]
        mask = additive(ahead[None, None], self._weight.dtype)
        return self._states(tokens, positions.expand(tokens.shape), mask, cache, where)

    def _states(
        self,
        tokens: Tensor,
        positions: Tensor,
        mask: Tensor | None,
        cache: DynamicCache | Slots,
        where: Sequence[tuple[int, int]],
    ) -> Tensor:
        given = {"input_ids": tokens, "position_ids": positions, "attention_mask": mask}
        known = {"past_key_values": cache, "use_cache": True}
        rows, columns = [row for row, _ in where], [column for _, column in where]
        if self.head.layer is not None:
            hidden: Tensor = self.module.base_model(**given, **known).last_hidden_state
            return hidden[rows, columns]
        kept = sorted(set(columns))
        asked = torch.tensor(kept, device=tokens.device)
        scores: Tensor = self.module(**given, **known, logits_to_keep=asked).logits
        return scores[rows, [kept.index(column) for column in columns]]


def reads_by_slots(model: LanguageModel) -> bool:
    """Whether `Reader` and `Slots` give the scores that the model gives by itself; its kind, and then a probe, tell."""
    module: CausalLM = model.module
    if not _attends_in_full(module):
        return False
    if module not in _FITS:
        _FITS[module] = _probe(model)
    return _FITS[module]


def agree(a: Tokens, b: Tokens) -> int:
    """Tokens that two rows begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def most_probable(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The token with the highest score at each position, with float32's precision where it is close.

    In half precision the scores of the vocabulary lie on a grid of about an eighth, and often several share the top.
    So the best few are scored again in float32: fewer answers then hang on the batch they were computed in.

    Args:
        hidden: (..., D) last hidden states.
        weight: (V, D) output embedding.
        bias: (V,) or None.

    Returns:
        (...) token ids.
    """
    scores = nn.functional.linear(hidden, weight, bias)
    if scores.dtype not in (torch.bfloat16, torch.float16):
        return scores.argmax(-1)
    close = scores.topk(CLOSE).indices
    exact = (weight[close].float() @ hidden[..., None].float())[..., 0]
    if bias is not None:
        exact += bias[close].float()
    return close.gather(-1, exact.argmax(-1, keepdim=True))[..., 0]


def _copy(cache: KeyValues, columns: int, rows: int) -> DynamicCache:
    """The first columns of a cache of one row, for several rows."""
    copy = DynamicCache()
    for number, layer in enumerate(cache.layers if columns else ()):
        keys, values = layer.keys[:, :, :columns], layer.values[:, :, :columns]
        copy.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), number)
    return copy


def _attends_in_full(module: CausalLM) -> bool:
    """Whether the model's only state is the keys and values of all tokens, at positions that it is told."""
    asked = {"position_ids", "past_key_values", "attention_mask", "logits_to_keep"}
    layers = DynamicCache(config=module.config).layers
    told = asked <= set(inspect.signature(module.forward).parameters)
    return told and bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def _probe(model: LanguageModel) -> bool:
    """Read two texts and a token more of each; compare with the model's own scores for the whole."""
    vocabulary = min(model.module.get_input_embeddings().num_embeddings, 97)  # type: ignore[operator]
    texts = [[7 * i % vocabulary for i in range(start, end)] for start, end in ((0, 5), (3, 6))]
    own = [model.module(input_ids=torch.tensor([text], device=model.device)).logits[0, -1] for text in texts]
    try:
        with attending(model.module):
            reader = Reader(model)
            cache, _ = reader.read([text[:-1] for text in texts], [(0, 0), (1, 0)])
            slots = Slots(cache, 2, 5)
            slots.seat(cache, [0, 1], 0)
            states = reader.step(slots, [t[-1] for t in texts], [len(t) - 1 for t in texts])
    except TypeError:  # it asks of attention what `attend` does not know
        return False
    ours, expected = reader.head.scores(states).double(), torch.stack(own).double()
    loose = model.module.dtype in (torch.bfloat16, torch.float16)
    return bool((ours - expected).norm() <= (0.05 if loose else 1e-3) * expected.norm())
