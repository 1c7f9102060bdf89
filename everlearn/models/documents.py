"""Documents that share a row: who sees whom, and a probe of whether a model keeps them apart."""

import torch
from torch import Tensor

from everlearn.examples import Batch


def block_mask(segments: Tensor, dtype: torch.dtype, shared: bool = False, units: Tensor | None = None) -> Tensor:
    """An additive mask that lets a token see the earlier tokens of its own document, and itself.

    Args:
        segments: (B, T) document numbers; 0 is padding.
        dtype: of the mask.
        shared: whether document 1 is a prompt that all others of its row continue, and see.
        units: (B, T) which row each token is of, where several were laid into one: none sees another.

    Returns:
        (B, 1, T, T): 0 where attention is allowed, the dtype's lowest number elsewhere.
    """
    rows, columns = segments[:, :, None], segments[:, None, :]
    seen = (rows == columns) | ((columns == 1) & (rows > 0) if shared else torch.zeros_like(rows == columns))
    if units is not None:
        seen &= units[:, :, None] == units[:, None, :]
    causal = torch.ones(segments.shape[1], segments.shape[1], dtype=torch.bool, device=segments.device).tril()
    allowed = (seen & causal)[:, None]
    return torch.zeros(allowed.shape, dtype=dtype, device=segments.device).masked_fill(~allowed, torch.finfo(dtype).min)


def inputs_of(batch: Batch, device: torch.device, dtype: torch.dtype, units: Tensor | None = None) -> dict[str, Tensor]:
    """What a model is given of a batch: `input_ids`, `attention_mask` and `position_ids`.

    Args:
        batch: what it reads.
        device: where the model lies.
        dtype: of a mask that keeps documents apart.
        units: see `block_mask`.
    """
    tokens, segments, positions = (t.to(device) for t in (batch.tokens, batch.segments, batch.positions))
    mask = (segments > 0).long()
    if units is not None or int(batch.segments.max()) > 1:
        mask = block_mask(segments, dtype, batch.shared, None if units is None else units.to(device))
    return {"input_ids": tokens, "attention_mask": mask, "position_ids": positions}


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
