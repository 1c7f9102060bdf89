"""Causal attention on processors, for training and scoring whole rows (arXiv:1706.03762, eq. 1).

Queries are taken in blocks, and a block meets only the keys up to its own end, so that the half of the square which
causality forbids is hardly computed. Heads that share keys share one matrix product and no copy of the keys. Neither
scores nor probabilities are kept for the backward pass: they are made again there, block by block, as in
FlashAttention (arXiv:2205.14135, algorithm 4), so that memory grows with the row and not with its square.

It stands in for a model's own attention under transformers' interface, once `adopt` has seen on a probe that the model
says the same with it.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import causal_mask_function, eager_mask

from everlearn.errors import ModelError

NAME = "everlearn"
BLOCK = 128
"""Queries of a block: the matrices of a block stay in the processor's cache, and a row of 512 does 5/8 of the work."""
HALF = (torch.bfloat16, torch.float16)
EXTRAS = ("softcap", "s_aux", "position_bias", "head_mask")
"""What some models want of their attention beside the formula; they keep their own."""


class _Causal(torch.autograd.Function):
    """softmax(scale q k^T + mask) v for as many queries as keys, a query seeing no key behind it."""

    @staticmethod
    def forward(ctx: FunctionCtx, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> Tensor:
        ctx.save_for_backward(q, k, v, mask)  # type: ignore[arg-type]
        ctx.scale = scale  # type: ignore[attr-defined]
        shape, q, k, v = q.shape, _grouped(q, k) * scale, k.flatten(0, 1), v.flatten(0, 1)
        out = torch.empty_like(q)
        for start in range(0, q.shape[2], BLOCK):
            p, block, end = _probabilities(q, k, mask, start)
            out[:, :, start:end] = (p @ v[:, :end]).view(block)
        return out.view(shape)

    @staticmethod
    def backward(ctx: FunctionCtx, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        kept_q, kept_k, kept_v, mask = ctx.saved_tensors  # type: ignore[attr-defined]
        scale: float = ctx.scale  # type: ignore[attr-defined]
        q, k, v = _grouped(kept_q, kept_k) * scale, kept_k.flatten(0, 1), kept_v.flatten(0, 1)
        grad = _grouped(upstream[0], kept_k)
        grad_q, grad_k, grad_v = torch.empty_like(q), _sums(k), _sums(v)
        for start in range(0, q.shape[2], BLOCK):
            p, block, end = _probabilities(q, k, mask, start)
            above = grad[:, :, start:end].flatten(1, 2)
            grad_v[:, :end] += p.mT @ above
            slope = torch.ops.aten._softmax_backward_data(above @ v[:, :end].mT, p, -1, p.dtype)
            grad_q[:, :, start:end] = (slope @ k[:, :end]).view(block)
            grad_k[:, :end] += slope.mT @ q[:, :, start:end].flatten(1, 2)
        grads = (grad_q.mul_(scale).view_as(kept_q), grad_k.view_as(kept_k), grad_v.view_as(kept_v))
        return *(g.to(q.dtype) for g in grads), None, None


def _grouped(heads: Tensor, keys: Tensor) -> Tensor:
    """(B, H, T, D) as (B K, H / K, T, D), where K heads of keys serve H heads of queries; contiguous."""
    rows, kinds = keys.shape[:2]
    return heads.reshape(rows * kinds, heads.shape[1] // kinds, *heads.shape[2:]).contiguous()


def _sums(like: Tensor) -> Tensor:
    """Zeros in a precision in which blocks can be added up."""
    return torch.zeros(like.shape, dtype=torch.float32 if like.dtype in HALF else like.dtype)


def _probabilities(q: Tensor, k: Tensor, mask: Tensor | None, start: int) -> tuple[Tensor, tuple[int, ...], int]:
    """Attention of the scaled queries from `start` on, (B K, H / K n, end); the shape of their outputs; and `end`."""
    pairs, group, length, width = q.shape
    end = min(start + BLOCK, length)
    scores = q[:, :, start:end].flatten(1, 2) @ k[:, :end].mT
    lowest = torch.finfo(scores.dtype).min
    square = scores.view(pairs, group, end - start, end)
    if mask is None:
        square[..., start:].add_(_lower(end - start, end - start, scores.dtype)).clamp_(min=lowest)
    elif (part := mask[:, :, start:end, :end]).any():
        rows = square.view(len(mask), -1, end - start, end)
        rows.add_(part).clamp_(min=lowest)  # the sum of a low score and a low mask would be minus infinity
    return scores.softmax(-1), (pairs, group, end - start, width), end


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **extras: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers asks for it.

    Args:
        module: the layer that asks.
        query: (B, H, T, D).
        key: (B, K, S, D), where K divides H.
        value: (B, K, S, D).
        attention_mask: (B or 1, 1, T, S), added to the scores; None is causal, for T = S.
        scaling: of the scores; None takes 1 / sqrt(D).
        dropout: of the probabilities.
        extras: what a layer says beside; nothing of it may change the formula.

    Returns:
        (B, T, H, D), and None for the probabilities.

    Raises:
        ModelError: if the layer wants more than the formula.
    """
    more = [name for name in EXTRAS if extras.get(name) is not None]
    if more:
        raise ModelError(f"{type(module).__name__} wants {more} of its attention; leave the model its own.")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    # Autocast, as trainers use it, leaves rotated queries and keys in float32; and it ends before the backward pass.
    query, key = query.to(value.dtype), key.to(value.dtype)
    with torch.autocast(query.device.type, enabled=False):
        if query.shape[2] == key.shape[2] and not dropout:
            out: Tensor = _Causal.apply(query, key, value, attention_mask, scale)  # type: ignore[no-untyped-call]
        else:
            out = _whole(query, key, value, attention_mask, scale, dropout)
    return out.transpose(1, 2).contiguous(), None


def _whole(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, dropout: float) -> Tensor:
    """The formula without short cuts, for keys that are not the queries' own, and for dropout."""
    q, k, v = _grouped(query, key), key.flatten(0, 1), value.flatten(0, 1)
    scores = (q * scale).flatten(1, 2) @ k.mT
    if mask is None and query.shape[2] > 1:
        mask = _lower(query.shape[2], key.shape[2], scores.dtype)
    if mask is not None:
        square = scores.view(len(query), -1, query.shape[2], key.shape[2])
        scores = (square + mask.to(square.dtype)).clamp(min=torch.finfo(scores.dtype).min).view_as(scores)
    return (nn.functional.dropout(scores.softmax(-1), dropout) @ v).view(query.shape)


def _lower(queries: int, keys: int, dtype: torch.dtype) -> Tensor:
    """A causal mask for the last so many of the keys' positions."""
    later = torch.ones(queries, keys, dtype=torch.bool).triu(keys - queries + 1)
    return torch.zeros(1, 1, queries, keys, dtype=dtype).masked_fill(later, torch.finfo(dtype).min)


def mask(attention_mask: Tensor | None = None, **asked: Any) -> Tensor | None:
    """The mask that transformers asks for: none where causality alone says the same.

    Args:
        attention_mask: (B, S) bool, which tokens are there.
        asked: what else `transformers.masking_utils.eager_mask` takes.

    Returns:
        (B, 1, T, S), or None where rows are padded on the right at most: no token then sees padding behind it.
    """
    plain = asked.get("mask_function", causal_mask_function) is causal_mask_function
    whole = asked["q_length"] == asked["kv_length"] and not asked.get("q_offset", 0) and not asked.get("kv_offset", 0)
    if plain and whole and asked.get("allow_is_causal_skip", True):
        gaps = attention_mask is not None and bool((attention_mask[:, 1:] & ~attention_mask[:, :-1]).any())
        if not gaps:
            return None
    return eager_mask(attention_mask=attention_mask, **asked)


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, mask)


def adopt(module: PreTrainedModel) -> bool:
    """Let a causal language model on a processor attend by this module, if it says the same with it on a probe.

    Args:
        module: in evaluation mode; it keeps its own attention, computed plainly, where this one does not fit.

    Returns:
        Whether it attends by this module now.
    """
    probe = torch.arange(1, 21).view(2, 10) % min(32, module.config.get_text_config().vocab_size)
    there = torch.tensor([[1] * 10, [1] * 7 + [0] * 3])
    module.set_attn_implementation("eager")
    with torch.inference_mode():
        own = module(input_ids=probe, attention_mask=there).logits[there.bool()]
        try:
            module.set_attn_implementation(NAME)
            ours = module(input_ids=probe, attention_mask=there).logits[there.bool()]
        except (ModelError, ValueError, TypeError, RuntimeError):
            ours = torch.full_like(own, torch.nan)
    same = bool((ours - own).float().norm() <= (0.05 if own.dtype in HALF else 1e-3) * own.float().norm())
    if not same:
        module.set_attn_implementation("eager")
    return same
