"""Sets of weights: which score highest, and how a set is kept in a bit a weight."""

from collections.abc import Mapping

import torch
from torch import Tensor

Bits = Mapping[str, Tensor]
"""For each parameter a mask of its elements, packed: uint8, a byte for 8 of them."""


def largest(scores: Tensor, count: int) -> Tensor:
    """A mask of the `count` largest scores, exactly so many; among equal ones the earlier.

    Args:
        scores: of any shape; -inf is allowed, nan is not.
        count: from 0 to the number of scores.
    """
    if count <= 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    flat = scores.flatten()
    least = flat.kthvalue(flat.numel() - count + 1).values
    above, equal = flat > least, flat == least
    room = count - int(above.sum())
    return (above | (equal & (equal.cumsum(0) <= room))).view(scores.shape)


def pack_bits(mask: Tensor) -> Tensor:
    """A boolean mask of n elements as ceil(n / 8) bytes; the first element is the lowest bit."""
    flat = mask.flatten().to(torch.uint8)
    padded = torch.nn.functional.pad(flat, (0, -len(flat) % 8)).view(-1, 8)
    return (padded << _places(mask)).sum(1, dtype=torch.uint8)


def unpack_bits(bits: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of `pack_bits`, boolean, of the given shape."""
    spread = (bits[:, None] >> _places(bits)) & 1
    return spread.flatten()[: shape.numel()].view(shape).bool()


def any_of(masks: list[Bits]) -> dict[str, Tensor]:
    """What stands in any of the masks, packed; a name that some lack is the others'."""
    found: dict[str, Tensor] = {}
    for bits in masks:
        found |= {name: found[name] | b if name in found else b for name, b in bits.items()}
    return found


def _places(like: Tensor) -> Tensor:
    return torch.arange(8, dtype=torch.uint8, device=like.device)
