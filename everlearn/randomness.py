"""Randomness as a function of names and numbers, so that a resumed run equals an uninterrupted one."""

import hashlib
import json
from array import array

import torch


def seed_of(*parts: str | int) -> int:
    """A 63-bit seed that depends on every part and on their order, the same on every machine."""
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*parts: str | int) -> torch.Generator:
    """A fresh random source on the CPU, seeded by `seed_of(*parts)`."""
    return torch.Generator().manual_seed(seed_of(*parts))


def permutation(count: int, *parts: str | int) -> "array[int]":
    """A random order of 0 .. count - 1, in 8 bytes each."""
    return integers(torch.randperm(count, generator=generator(*parts)))


def integers(tensor: torch.Tensor) -> "array[int]":
    """Whole numbers in 8 bytes each, where a list would take 36.

    Args:
        tensor: (N,) int64, on the CPU.
    """
    return array("q", tensor.numpy().tobytes())
