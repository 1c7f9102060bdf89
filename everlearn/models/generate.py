"""Greedy decoding in batches, with the expected answers as a short cut.

Each batch reads what its prompts have in common once, then all prompts together with their expected answers; where
greedy decoding agrees with the expected answer, its tokens are known from that one pass, and only what differs is
decoded token by token. A finished row leaves its batch. The outcome is that of plain greedy decoding, up to the
rounding of sums in another order.

In half precision the scores of the vocabulary lie on a grid of about an eighth, and often several share the top. So
the best few are scored again in float32: fewer answers then hang on the batch they were computed in.

Nothing of a model's own generation settings (temperature, repetition penalty, beams) is used.
"""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, GenerationConfig
from transformers.cache_utils import DynamicLayer

from everlearn.data.render import end_tokens
from everlearn.errors import ModelError
from everlearn.models.language_model import LanguageModel
from everlearn.types import Progress, Silent

VERIFIED = 16
"""Tokens of an expected answer that are verified at most; a longer one is seldom met to the letter."""

CLOSE = 8
"""Tokens that are scored again in float32."""

SCORES = 2**26
"""Most numbers in a batch's scores of the expected answers, over the whole vocabulary."""

Tokens = Sequence[int]

CausalLM = Any
"""A causal language model of transformers; its base classes do not type what all of them have."""


def generate(
    model: LanguageModel,
    prompts: Sequence[Tokens],
    limit: int,
    batch_tokens: int = 4096,
    hints: Sequence[Tokens] = (),
    progress: Progress | None = None,
) -> list[str]:
    """What the model answers to each prompt by greedy decoding, without special tokens, in the prompts' order.

    Args:
        model: who answers.
        prompts: tokens up to where each answer begins; none empty.
        limit: most tokens of an answer, the end token counted.
        batch_tokens: most tokens in one batch, padding and answers counted; at least one row is taken.
        hints: the answers to expect, with their end token, for speed alone; one for each prompt, or none.
        progress: told after each batch.

    Raises:
        ModelError: if a prompt and its answer are longer than the model's positions.
    """
    module: CausalLM = model.module
    _refuse_too_long(module, prompts, limit)
    assert len(hints) in (0, len(prompts)), "a hint for each prompt, or none"
    watch, ends = progress or Silent(), end_tokens(model.tokenizer)
    expected = [tuple(h[: min(limit, VERIFIED)]) for h in hints] or [()] * len(prompts)
    answers: list[list[int]] = [[] for _ in prompts]
    done, vocabulary = 0, module.get_input_embeddings().num_embeddings
    with _evaluating(module), torch.inference_mode():
        simple, split = _attends_in_full(module), _splits_head(module)
        for group in _groups(prompts, expected, batch_tokens, limit, vocabulary):
            given, hoped = [prompts[i] for i in group], [expected[i] for i in group]
            if simple:
                found = _decode(module, split, given, hoped, ends, limit)
            else:
                found = _decode_by_library(module, given, ends, limit)
            for i, answer in zip(group, found, strict=True):
                answers[i] = answer
            done += len(group)
            watch.update("answering", done, len(prompts))
    plain = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    return [str(model.tokenizer.decode(answer, **plain)) for answer in answers]


@dataclass
class _Reader:
    """Some rows of tokens, read so far.

    Args:
        module: who reads.
        split: whether its scores are its output embedding applied to its last hidden states, and nothing more.
        mask: (n, S) which of the S tokens read are to be seen.
        cache: their keys and values.
    """

    module: CausalLM
    split: bool
    mask: Tensor
    cache: DynamicCache

    def read(self, tokens: Tensor, positions: Tensor, scored: int = 1) -> Tensor:
        """Read (n, t) tokens more, already in the mask; the most probable token after each of the last `scored`."""
        inputs = {"input_ids": tokens, "position_ids": positions, "attention_mask": self.mask}
        known = {"past_key_values": self.cache, "use_cache": True}
        if not self.split:
            best: Tensor = self.module(**inputs, **known, logits_to_keep=scored).logits.argmax(-1)
            return best
        hidden = self.module.base_model(**inputs, **known).last_hidden_state[:, -scored:]
        head = self.module.get_output_embeddings()
        return most_probable(hidden, head.weight, head.bias)

    def keep(self, rows: Tensor) -> None:
        """Leave the other rows out."""
        self.mask = self.mask[rows]
        self.cache.batch_select_indices(rows)


def _decode(
    module: CausalLM, split: bool, prompts: Sequence[Tokens], hints: Sequence[Tokens], ends: Tokens, limit: int
) -> list[list[int]]:
    """Answers with their end tokens."""
    reader, answers = _verify(module, split, prompts, hints)
    answers = [_cut(answer, ends, limit) for answer in answers]
    device, rows = reader.mask.device, list(range(len(prompts)))
    while True:
        going = [n for n, row in enumerate(rows) if len(answers[row]) < limit and answers[row][-1] not in ends]
        if not going:
            return answers
        if len(going) < len(rows):
            reader.keep(torch.tensor(going, device=device))
            rows = [rows[n] for n in going]
        last = torch.tensor([answers[row][-1:] for row in rows], device=device)
        positions = torch.tensor([[len(prompts[row]) + len(answers[row]) - 1] for row in rows], device=device)
        reader.mask = nn.functional.pad(reader.mask, (0, 1), value=1)
        for row, token in zip(rows, reader.read(last, positions)[:, -1].tolist(), strict=True):
            answers[row].append(token)


def _verify(
    module: CausalLM, split: bool, prompts: Sequence[Tokens], hints: Sequence[Tokens]
) -> tuple[_Reader, list[list[int]]]:
    """Read prompts and hints: what greedy decoding is now known to begin with, a token or more for each row."""
    device = module.get_input_embeddings().weight.device
    shared = _shared(prompts)
    reader = _Reader(module, split, torch.ones(1, shared, dtype=torch.long, device=device), DynamicCache())
    if shared:
        start = torch.tensor([prompts[0][:shared]], device=device)
        reader.read(start, torch.arange(shared, device=device)[None])
        reader.cache.batch_repeat_interleave(len(prompts))
    tokens, mask = _columns([p[shared:] for p in prompts], hints)
    reader.mask = nn.functional.pad(mask, (shared, 0), value=1).to(device)
    positions = (reader.mask.cumsum(1) - 1).clamp(min=0)[:, shared:]
    depth = max(map(len, hints))
    best = reader.read(tokens.to(device), positions, depth + 1).tolist()
    answers = []
    for row, hint in enumerate(hints):
        met = _agree(hint, best[row])
        answers.append([*hint[:met], best[row][met]])
        reader.mask[row, reader.mask.shape[1] - depth + met :] = 0  # what was expected and not met is not to be seen
    return reader, answers


def _columns(prompts: Sequence[Tokens], hints: Sequence[Tokens]) -> tuple[Tensor, Tensor]:
    """Tokens and mask, padded on both sides so that all prompts end, and all hints begin, in the same column."""
    width, depth = max(map(len, prompts)), max(map(len, hints))
    tokens = torch.zeros(len(prompts), width + depth, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for row, (prompt, hint) in enumerate(zip(prompts, hints, strict=True)):
        here = slice(width - len(prompt), width + len(hint))
        tokens[row, here] = torch.tensor([*prompt, *hint])
        mask[row, here] = 1
    return tokens, mask


def most_probable(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The token with the highest score at each position, with float32's precision where it is close.

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


def _decode_by_library(module: CausalLM, prompts: Sequence[Tokens], ends: Tokens, limit: int) -> list[list[int]]:
    """For models that keep another state than keys and values of all tokens."""
    width = max(map(len, prompts))
    device = module.get_input_embeddings().weight.device
    rows = torch.tensor([[ends[0]] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    ours = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=limit, do_sample=False, num_beams=1, eos_token_id=list(ends), pad_token_id=ends[0]
    )
    own, module.generation_config = module.generation_config, ours  # else its own fill what ours leaves open
    try:
        found = module.generate(rows, attention_mask=mask, generation_config=ours)
    finally:
        module.generation_config = own
    return [_cut(answer, ends, limit) for answer in found[:, width:].tolist()]


def _groups(
    prompts: Sequence[Tokens], hints: Sequence[Tokens], batch_tokens: int, limit: int, vocabulary: int
) -> Iterator[list[int]]:
    """Batches of prompts of like length, the longest first, as indices."""
    group: list[int] = []
    for i in sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i)):
        rows, longest = len(group) + 1, len(prompts[group[0] if group else i]) + limit
        depth = max(len(hints[j]) for j in (*group, i)) + 1
        if group and (rows * longest > batch_tokens or rows * depth * vocabulary > SCORES):
            yield group
            group = []
        group.append(i)
    if group:
        yield group


def _shared(prompts: Sequence[Tokens]) -> int:
    """Tokens that all prompts begin with, one less than the shortest at most."""
    if len(prompts) < 2:
        return 0
    shortest = min(len(p) - 1 for p in prompts)
    return min(shortest, *(_agree(prompts[0], p) for p in prompts[1:]))


def _agree(a: Tokens, b: Tokens) -> int:
    """Tokens that two rows begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def _cut(answer: Tokens, ends: Tokens, limit: int) -> list[int]:
    """The answer up to its first end token or the limit."""
    stop = next((n for n, token in enumerate(answer, start=1) if token in ends), limit)
    return list(answer[: min(stop, limit)])


def _attends_in_full(module: CausalLM) -> bool:
    """Whether the model's only state is the keys and values of all tokens, at positions that it is told."""
    asked = {"position_ids", "past_key_values", "attention_mask", "logits_to_keep"}
    layers = DynamicCache(config=module.config).layers
    told = asked <= set(inspect.signature(module.forward).parameters)
    return told and bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


def _splits_head(module: CausalLM) -> bool:
    """Whether the model's scores are its output embedding applied to its last hidden states, seen on a probe."""
    head = module.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        return False
    probe = torch.arange(4, device=head.weight.device)[None]
    scores = head(module.base_model(input_ids=probe).last_hidden_state)
    return torch.allclose(scores, module(input_ids=probe).logits.to(scores.dtype), rtol=1e-2, atol=1e-2)


@contextmanager
def _evaluating(module: CausalLM) -> Iterator[None]:
    """Inside, dropout does not act."""
    was = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was)


def _refuse_too_long(module: CausalLM, prompts: Sequence[Tokens], limit: int) -> None:
    longest = max(map(len, prompts), default=0)
    most = getattr(module.config, "max_position_embeddings", None)
    if most is not None and longest + limit > most:
        raise ModelError(
            f"a prompt of {longest} tokens and {limit} more for its answer exceed the model's {most} positions; "
            "shorten the prompt or the limit."
        )
