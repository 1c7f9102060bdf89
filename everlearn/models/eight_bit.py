"""AdamW with moments of 8 bits (arXiv:2110.02861), by bitsandbytes; on CUDA, where it has not been tried yet."""

from collections.abc import Sequence

import torch
from bitsandbytes.optim import AdamW8bit  # type: ignore[import-not-found, import-untyped, unused-ignore]
from torch import Tensor


def adamw(
    tensors: Sequence[Tensor], rate: float, betas: tuple[float, float], weight_decay: float
) -> torch.optim.Optimizer:
    """The optimiser at work.

    Args:
        tensors: what learns, on CUDA.
        rate: learning rate.
        betas: decays of the moments.
        weight_decay: decoupled.
    """
    found: torch.optim.Optimizer = AdamW8bit(list(tensors), rate, betas, weight_decay=weight_decay)
    return found
