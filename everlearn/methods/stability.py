"""Looking on at what is forgotten while something new is learned: the stability gap."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from everlearn.data.packing import rows_alone
from everlearn.data.sequences import each
from everlearn.errors import ConfigError
from everlearn.examples import Example
from everlearn.method import Context, Method
from everlearn.types import Memory

LOSS_ON = "loss on "
"""What the numbers' names begin with; the experience's name follows."""


@dataclass(frozen=True)
class StabilityGap(Method):
    """Note the loss on each earlier experience every few steps of a new one; nothing that is learned is changed.

    A version that has lost little in the end may have lost much on the way, and won it back: what a matrix of finished
    versions cannot show (the stability gap, arXiv:2205.13452; of language models that are pre-trained further,
    arXiv:2406.14833). The numbers stand in metrics.jsonl as notes, "loss on NAME" in nats per token, and the report
    draws them. Those of step n are of the model after n steps; the last ones are of the finished version, unmerged.

    It stands on the gradient's side since that is asked in every step, without a copy of the weights. A model whose
    adapters are routed is asked as one that is not told whose example it reads.

    Args:
        every: steps from one look to the next.
        items: rows of each experience that are looked at: its first validation rows, or training rows if it has none.
    """

    keeps: ClassVar[str] = "items examples for each experience"
    computes: ClassVar[str] = "passes over old rows, every few steps"

    every: int = 10
    items: int = 16

    def __post_init__(self) -> None:
        """Refuse counts below one."""
        if min(self.every, self.items) < 1:
            raise ConfigError(f"{self}: every and items are 1 or more.")

    def init(self, model: object) -> Memory:
        """Nothing was learned."""
        return {"kept": {}}

    def begin(self, memory: Memory, ctx: Context) -> Memory:
        """Look at the version that begins."""
        self._look(memory, ctx)
        return memory

    def grad(self, memory: Memory, grads: Mapping[str, Tensor], ctx: Context) -> Mapping[str, Tensor]:
        """Look, when it is time; the gradients are as they were."""
        if ctx.step and ctx.step % self.every == 0:
            self._look(memory, ctx)
        return grads

    def end(self, memory: Memory, ctx: Context) -> Memory:
        """Look at the version that ends, and keep rows of what was learned."""
        self._look(memory, ctx)
        experience = ctx.experience
        rows = experience.validation if len(experience.validation) else experience.train
        kept = [example.row() for example in each(rows, range(min(self.items, len(rows))))]
        return memory | {"kept": memory["kept"] | {experience.name: kept}}

    def _look(self, memory: Memory, ctx: Context) -> None:
        kept = {name: [Example.from_row(row) for row in rows] for name, rows in memory["kept"].items()}
        if kept:
            ctx.note({f"{LOSS_ON}{name}": _loss(ctx, examples) for name, examples in kept.items()})


def _loss(ctx: Context, examples: Sequence[Example]) -> float:
    """In nats per token, over all tokens of the examples."""
    total, count = 0.0, 0
    encoded = [(ctx.model.encode(example), example) for example in examples]
    with torch.no_grad():
        for _, batch in rows_alone(encoded, ctx.plan.length, ctx.plan.tokens):
            found = ctx.model.token_logprobs(batch)
            total, count = total - float(found.double().sum()), count + len(found)
    return total / max(count, 1)
