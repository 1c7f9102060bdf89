"""Documents that share a row: who sees whom, and a probe of whether a model keeps them apart."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from everlearn.examples import Batch


def block_mask(batch: Batch, dtype: torch.dtype, window: int | None = None, units: Tensor | None = None) -> Tensor:
    """An additive mask that lets a token see the earlier tokens of its own document, and itself.

    Args:
        batch: (B, T) rows; where their documents share a prompt, each sees that too.
        dtype: of the mask.
        window: how many tokens one sees at most, itself counted; None sees all.
        units: (B, T) which row each token is of, where several were laid into one: none sees another.

    Returns:
        (B, 1, T, T): 0 where attention is allowed, the dtype's lowest number elsewhere.
    """
    rows, columns = batch.segments[:, :, None], batch.segments[:, None, :]
    seen = (rows == columns) | ((columns == 1) & (rows > 0) if batch.shared else torch.zeros_like(rows == columns))
    if units is not None:
        seen &= units[:, :, None] == units[:, None, :]
    if window is not None:
        seen &= batch.positions[:, :, None] - batch.positions[:, None, :] < window
    allowed = seen.tril()[:, None]
    return torch.zeros(allowed.shape, dtype=dtype, device=seen.device).masked_fill(~allowed, torch.finfo(dtype).min)


def inputs_of(batch: Batch, model: nn.Module, like: Tensor, units: Tensor | None = None) -> dict[str, Any]:
    """What a model is given of a batch: `input_ids`, `attention_mask` and `position_ids`.

    Args:
        batch: what it reads.
        model: a causal language model; its configuration says which of its layers have a window.
        like: where that goes, and the dtype of a mask that keeps documents apart.
        units: see `block_mask`.
    """
    tokens, segments, positions = (t.to(like.device) for t in (batch.tokens, batch.segments, batch.positions))
    mask: Any = (segments > 0).long()
    if units is not None or int(batch.segments.max()) > 1:
        there = replace(batch, segments=segments, positions=positions)
        units = None if units is None else units.to(like.device)
        masks = {kind: block_mask(there, like.dtype, window, units) for kind, window in windows(model).items()}
        mask = masks if len(masks) > 1 else next(iter(masks.values()))
    return {"input_ids": tokens, "attention_mask": mask, "position_ids": positions}


def windows(model: nn.Module) -> dict[str, int | None]:
    """How many tokens one sees at most, by transformers' name for each kind of the model's layers; None is all.

    transformers takes a mask that is made already as it is, for all layers, or one for each kind. The name is empty
    where all layers are of one kind.
    """
    configuration: Any = getattr(model, "config", None)
    text = configuration.get_text_config() if configuration else None
    window, kinds = getattr(text, "sliding_window", None), set(getattr(text, "layer_types", None) or ())
    if len(kinds) > 1 and "sliding_attention" in kinds:
        return {kind: window if kind == "sliding_attention" else None for kind in sorted(kinds)}
    return {"": window if kinds <= {"sliding_attention"} else None}


def two_documents(packed: bool, vocabulary: int) -> Batch:
    """A probe: documents of four and six tokens, in one row or padded in two."""
    tokens = torch.arange(10) * 7 % min(vocabulary, 97)
    first = torch.arange(10) < 4
    if packed:
        segments, positions = torch.where(first, 1, 2), torch.where(first, torch.arange(10), torch.arange(10) - 4)
        return Batch(tokens[None], positions[None], segments[None], torch.zeros(1, 10, dtype=torch.bool))
    both = torch.stack([torch.cat([tokens[:4], tokens[:2]]), tokens[4:]])
    segments = torch.tensor([[1, 1, 1, 1, 0, 0], [1] * 6])
    return Batch(both, torch.arange(6).expand(2, 6), segments, torch.zeros(2, 6, dtype=torch.bool))


def nearly_equal(a: Tensor, b: Tensor) -> bool:
    """Equal up to the rounding of the dtype: cosine within 1 % in half precision, 1e-4 otherwise."""
    loose = a.dtype in (torch.bfloat16, torch.float16)
    return bool((a.float() - b.float()).norm() <= (0.05 if loose else 1e-3) * b.float().norm())
