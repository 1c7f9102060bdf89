"""Replay: training on old examples among the new ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from everlearn.data.buffers import balanced_keep, reservoir_keep
from everlearn.data.sequences import Joined, View
from everlearn.errors import ConfigError
from everlearn.examples import Example
from everlearn.method import Context, Method
from everlearn.models.language_model import LanguageModel
from everlearn.randomness import integers
from everlearn.types import Memory

Selection = Literal["reservoir", "balanced"]


@dataclass(frozen=True)
class Replay(Method):
    """Mix stored examples of earlier experiences into the new ones (experience replay, arXiv:1902.10486).

    Stored examples are drawn without replacement until all have been used, then again. Differs from the paper: the
    share is set by `fraction`, not by a second batch of equal size.

    Args:
        fraction: share of replayed examples among all examples trained on, in [0, 1).
        capacity: most examples kept in all.
        selection: "reservoir" keeps a uniform sample of all examples seen (Vitter 1985), so that long experiences get
            more room; "balanced" gives each experience the same room.
    """

    shardings: ClassVar = frozenset({"replicated", "sharded"})  # touches no parameter

    fraction: float = 0.1
    capacity: int = 1000
    selection: Selection = "balanced"

    def __post_init__(self) -> None:
        """Refuse a share that leaves no room for new examples."""
        if not 0 <= self.fraction < 1 or self.capacity < 1:
            raise ConfigError(f"{self}: fraction is in [0, 1), capacity 1 or more.")

    def init(self, model: LanguageModel) -> Memory:
        """An empty buffer."""
        return {"rows": [], "seen": 0}

    def data(self, memory: Memory, examples: Sequence[Example], ctx: Context) -> Sequence[Example]:
        """The new examples, and as many old ones as the fraction asks for."""
        count = round(self.fraction / (1 - self.fraction) * len(examples))
        rows: list[Mapping[str, object]] = memory["rows"]
        if not rows or not count:
            return examples
        rng = ctx.rng("replay")
        rounds = [torch.randperm(len(rows), generator=rng) for _ in range(-(-count // len(rows)))]
        stored = [Example.from_row(row) for row in rows]
        return Joined((examples, View(stored, integers(torch.cat(rounds)[:count]))))

    def end(self, memory: Memory, ctx: Context) -> Memory:
        """The buffer after the experience's own examples were offered to it."""
        train, rng = ctx.experience.train, ctx.rng("keep")
        rows, seen = memory["rows"], memory["seen"]
        if self.selection == "reservoir":
            kept = reservoir_keep(len(rows), seen, len(train), self.capacity, rng)
        else:
            kept = balanced_keep([r["origin"] for r in rows], ctx.experience.name, len(train), self.capacity, rng)
        named = {"origin": ctx.experience.name}
        return {
            "rows": [rows[i] if old else train[i].row() | named for old, i in kept],
            "seen": seen + len(train),
        }
