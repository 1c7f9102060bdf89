"""Rows held out by a stable hash: the same row stands on the same side in every run, whatever stands around it."""

import hashlib
import json
from array import array
from collections.abc import Sequence

import torch

from everlearn.data.sequences import Planned, select
from everlearn.errors import ConfigError
from everlearn.examples import Example
from everlearn.randomness import integers

LEAST = 10
"""Fewer validation rows than this say too little to stop or to choose by."""


def split_validation(
    examples: Sequence[Example], fraction: float = 0.1, least: int = LEAST
) -> tuple[Sequence[Example], Sequence[Example]]:
    """Training rows and validation rows; a lazy sequence gives lazy parts.

    Args:
        examples: the rows, in any order.
        fraction: about how large a part is held out.
        least: where fewer rows would be held out, none is.

    Raises:
        ConfigError: if the fraction is not in [0, 1).
    """
    train, held = hold_out(examples, fraction, "validation")
    return (train, held) if len(held) >= least else (examples, ())


def hold_out(examples: Sequence[Example], fraction: float, purpose: str) -> tuple[Sequence[Example], Sequence[Example]]:
    """The rows that stay and those held out, each in their order.

    Rows with the same prompt, and documents with the same text, stand on one side. Different purposes hold out
    independently of each other.

    Raises:
        ConfigError: if the fraction is not in [0, 1).
    """
    if not 0 <= fraction < 1:
        raise ConfigError(f"fraction {fraction} of the rows cannot be held out; use 0 or more, and less than 1.")
    stay, held = array("Q"), array("Q")
    for row, example in enumerate(examples):
        (held if _place(example, purpose) < fraction else stay).append(row)
    whole = examples.plain if isinstance(examples, Planned) else examples  # what is held out follows no plan
    return select(examples, stay), select(whole, held)


def _place(example: Example, purpose: str) -> float:
    """A number in [0, 1) that depends on the prompt alone, or on the whole where there is none."""
    asked = [purpose, *([m.role, m.content] for m in example.prompt)] if example.prompt else [purpose, example.key]
    digest = hashlib.sha256(json.dumps(asked).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def sample(examples: Sequence[Example], count: int) -> Sequence[Example]:
    """At most `count` rows in their order, chosen by a stable hash, so that a sorted file gives all its kinds."""
    if count >= len(examples):
        return examples
    places = torch.frombuffer(array("d", (_place(example, "sample") for example in examples)), dtype=torch.float64)
    return select(examples, integers(places.argsort(stable=True)[:count].sort().values))
