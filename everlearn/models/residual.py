"""A residual stream in float32 for a model whose weights are in half precision.

Each layer adds a small number to what all layers before it have added up. In half precision that sum is rounded twice
a layer, forward and backward, and in a model of 30 layers that turns the gradient of single adapters. With a float32
sum they are about half as far from float32's (NOTES.md, and the benchmark's row on gradients). Matrix products, and
keys and values in decoding, stay in half precision: what a norm or a rotary embedding gives to them is rounded there.
"""

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from everlearn.models.layers import decoder

HALF = (torch.bfloat16, torch.float16)
CLOSE = 0.25
"""Norm of the difference from the model's own logits, relative: on tokens that make no sense, two roundings differ much
(0.08 on the embedded model, and both by 0.5 from float32); on another function they would differ by about 1."""


def widen(module: PreTrainedModel) -> bool:
    """Let a causal language model of half precision add up its residual stream in float32.

    Args:
        module: in evaluation mode; it stays as it is where a probe fails, or does not say nearly the same.

    Returns:
        Whether it does so now.
    """
    embedding = module.get_input_embeddings()
    if not isinstance(embedding, nn.Embedding) or embedding.weight.dtype not in HALF:
        return False
    probe = torch.arange(1, 21, device=embedding.weight.device).view(2, 10) % min(32, embedding.num_embeddings)
    with torch.inference_mode():
        own = module(input_ids=probe).logits
        hooks = [embedding.register_forward_hook(_Cast(torch.float32))]
        narrow = [part for part in decoder(module).modules() if _ends_the_stream(part)]
        hooks += [part.register_forward_hook(_Cast(embedding.weight.dtype)) for part in narrow]
        try:
            ours = module(input_ids=probe).logits
        except (RuntimeError, TypeError, ValueError):  # a kind of layer that wants all of its inputs in one precision
            ours = torch.full_like(own, torch.nan)
    same = ours.dtype == own.dtype and bool((ours - own).float().norm() <= CLOSE * own.float().norm())
    if not same:
        for hook in hooks:
            hook.remove()
    return same


def _ends_the_stream(part: nn.Module) -> bool:
    """Whether a module reads the stream for those who compute in half precision: norms, and angles of positions."""
    kind = type(part).__name__
    return "Norm" in kind or "Rotary" in kind


class _Cast:
    """A hook that casts what a module gives; an object, so that a model with it can be copied and sent."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def __call__(self, module: nn.Module, given: tuple[object, ...], out: Tensor | tuple[Tensor, ...]) -> object:
        if isinstance(out, tuple):
            return tuple(part.to(self.dtype) for part in out)
        return out.to(self.dtype)
