"""Regularising by the optimal policies of earlier preferences."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from everlearn.data.buffers import balanced_keep
from everlearn.data.sequences import each
from everlearn.errors import ConfigError
from everlearn.examples import Batch, Example
from everlearn.method import Context, Method, Tensors
from everlearn.models.language_model import LanguageModel
from everlearn.objectives.criteria import margins
from everlearn.objectives.judged import batches_of, case_of, judged_of
from everlearn.objectives.preference import Preference
from everlearn.types import Memory

Kept = Mapping[str, Any]
"""A stored pair: its "row", and its "odds", log p(chosen) - log p(rejected) in nats before it was learned."""


@dataclass(frozen=True)
class COPR(Method):
    """Stay near the optimal policies of earlier preferences (arXiv:2402.14228).

    A pair's optimal policy is p* ~ p_before exp(reward / beta): seen from the policy that it was learned from, the
    chosen answer is better by `gap` in units of beta, and not by more. Stored pairs add strength times the mean of
    KL(sigmoid(gap) || sigmoid(beta (odds - odds before))), with odds = log p(chosen) - log p(rejected); it is 0 where
    the policy is still optimal for them. The strength is a Lagrange multiplier: after each step it is multiplied by
    exp(rate (that mean - bound)).

    New pairs are fitted to their optimal policy by `Preference(DPO(beta, smoothing))` with smoothing = sigmoid(-gap),
    0.27 for a gap of 1: the cross-entropy to the same target, which is ln 2 where nothing was learned.

    A reconstruction from accounts of the paper, for pairs: its rewards of ranked answers become `gap`, its sums over
    an answer set two answers, and its Lagrangian this multiplier, whose numbers are a public port's. Memory: for each
    of `capacity` pairs, shared equally by experiences, its text and 8 bytes. Experiences without pairs are let pass,
    and so are those of another objective, whose two choices are no preference.

    Args:
        strength: the multiplier at the beginning; 0 stays 0.
        beta: how much a reward weighs against staying near the policy before, as in `DPO`.
        gap: by how much the chosen answer's reward is larger.
        bound: the mean divergence in nats that is put up with.
        rate: of the multiplier's growth, in each step and nat; 0 leaves it as it is.
        rows: stored pairs drawn in each step.
        capacity: most pairs kept in all.
    """

    keeps: ClassVar[str] = "capacity pairs and 8 bytes each, in all"
    computes: ClassVar[str] = "a gradient of stored pairs and one more pass over them, each step"
    reads_batch: ClassVar[bool] = False

    strength: float = 1.0
    beta: float = 0.1
    gap: float = 1.0
    bound: float = 0.1
    rate: float = 0.1
    rows: int = 8
    capacity: int = 500

    def __post_init__(self) -> None:
        """Refuse numbers without a meaning."""
        if min(self.strength, self.bound, self.rate) < 0 or min(self.beta, self.gap) <= 0:
            raise ConfigError(f"{self}: strength, bound and rate are not negative, and beta and gap are positive.")
        if min(self.rows, self.capacity) < 1:
            raise ConfigError(f"{self}: rows and capacity are 1 at least.")

    def init(self, model: LanguageModel) -> Memory:
        """No pairs yet."""
        return {"kept": [], "coming": [], "strength": self.strength}

    def begin(self, memory: Memory, ctx: Context) -> Memory:
        """Choose pairs of the experience to keep, and what the last version says of them."""
        taught = isinstance(ctx.experience.objective, Preference)
        pairs = [example for example in ctx.experience.train if taught and len(example.choices) == 2]
        origins = [kept["row"]["origin"] for kept in memory["kept"]]
        kept = balanced_keep(origins, ctx.experience.name, len(pairs), self.capacity, ctx.rng("kept"))
        chosen = list(each(pairs, [i for old, i in kept if not old]))
        with torch.no_grad():
            said = self._odds(chosen, ctx).tolist() if chosen else []
        new = iter(
            [
                {"row": example.row() | {"origin": ctx.experience.name}, "odds": odds}
                for example, odds in zip(chosen, said, strict=True)
            ]
        )
        return {**memory, "coming": [memory["kept"][i] if old else next(new) for old, i in kept]}

    def end(self, memory: Memory, ctx: Context) -> Memory:
        """The experience's pairs are earlier ones from now on."""
        return {**memory, "kept": memory["coming"], "coming": []}

    def loss(self, memory: Memory, batch: Batch, ctx: Context) -> Tensor | float:
        """The weighted divergence on stored pairs; it does not depend on the batch learned from."""
        if not memory["kept"] or not memory["strength"]:
            return 0.0
        return float(memory["strength"]) * self.divergence(_drawn(memory, self.rows, ctx), ctx)

    def step(self, memory: Memory, grads: Tensors, update: Tensors, ctx: Context) -> Memory:
        """The multiplier grows where stored pairs are farther from their optimum than is put up with.

        What is measured is the model after the step; in half precision, whose new weights are shown to the model later,
        it is the model before it, so that the multiplier follows one step behind.
        """
        if not memory["kept"] or not memory["strength"] or not self.rate:
            return memory
        with torch.no_grad():
            apart = float(self.divergence(_drawn(memory, self.rows, ctx), ctx))
        return {**memory, "strength": float(memory["strength"]) * math.exp(self.rate * (apart - self.bound))}

    def divergence(self, kept: Sequence[Kept], ctx: Context) -> Tensor:
        """The mean divergence from stored pairs' optimal policies, in nats, a differentiable scalar."""
        now = self._odds([Example.from_row(pair["row"]) for pair in kept], ctx)
        before = torch.tensor([pair["odds"] for pair in kept], dtype=torch.float64).to(now)
        gap = torch.tensor(self.gap, dtype=torch.float64)
        target = torch.sigmoid(gap)
        entropy = -(target * logsigmoid(gap) + (1 - target) * logsigmoid(-gap))
        wanted = torch.full_like(now, float(target))
        return binary_cross_entropy_with_logits(self.beta * (now - before), wanted) - entropy.to(now)

    def _odds(self, pairs: Sequence[Example], ctx: Context) -> Tensor:
        """Log p(chosen) - log p(rejected) of each pair, in the pairs' order, (P,)."""
        cases, packs = [case_of(ctx.model, pair, ctx.plan.length) for pair in pairs], ctx.model.packs
        found: dict[int, Tensor] = {}
        for batch in batches_of(cases, packs, ctx.plan.tokens, True):
            odds = margins(judged_of(batch, ctx.model.token_logprobs(batch)).logprobs)
            rows = batch.examples if packs else batch.examples[::2]  # batches put pairs in an order of their own
            found |= {id(example): own for example, own in zip(rows, odds, strict=True)}
        return torch.stack([found[id(case.example)] for case in cases])


def _drawn(memory: Memory, rows: int, ctx: Context) -> list[Kept]:
    order = torch.randperm(len(memory["kept"]), generator=ctx.rng("drawn"))[:rows]
    return [memory["kept"][i] for i in order.tolist()]
