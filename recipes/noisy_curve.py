"""What a model loses on clean and on spoilt text while it learns, by tokens seen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from everlearn.examples import Batch, Example, Plan
from everlearn.models.language_model import LanguageModel
from everlearn.models.optim import Recipe
from everlearn.objectives.next_token import NextToken
from everlearn.objectives.selective import Selective, live_losses
from everlearn.types import Objective
from recipes.noisy_text import KINDS, Parts


@dataclass(frozen=True)
class Curve:
    """Losses in nats per token, before the first step and at each mark.

    Args:
        tokens: seen.
        held_out: on clean held-out documents.
        groups: on the probe: tokens "chosen" and "others" by the reference before the first step, the same for all
            arms of a seed; and those of documents of each kind.
        clean: the share of clean documents' tokens among what was learned: of an objective that chooses, among what it
            chooses of the probe at the end; of others, among all bytes.
        seconds: inside optimiser steps.
    """

    tokens: Sequence[int]
    held_out: Sequence[float]
    groups: Mapping[str, Sequence[float]]
    clean: float
    seconds: float

    def reaches(self, loss: float) -> float | None:
        """Tokens until the loss is as low, between two marks along a line; None if it never is."""
        if self.held_out[0] <= loss:
            return 0.0
        for i in range(1, len(self.tokens)):
            if self.held_out[i] <= loss:
                before, after = self.held_out[i - 1], self.held_out[i]
                part = (before - loss) / (before - after)
                return self.tokens[i - 1] + part * (self.tokens[i] - self.tokens[i - 1])
        return None

    def faster(self, other: "Curve") -> float:
        """By what factor fewer tokens lead to the same loss as the other's: above 1 if this one is the faster.

        The loss is the other's last; where this one does not reach it, its own last.
        """
        mine = self.reaches(other.held_out[-1])
        if mine is not None:
            return other.tokens[-1] / mine if mine else float("inf")
        theirs = other.reaches(self.held_out[-1])
        return (theirs or 0.0) / self.tokens[-1]


class Probe:
    """Looks on while an arm learns, and draws its curve.

    Args:
        model: the live one, before the first step.
        found: what it is asked.
        judge: by whose reference the probe's tokens are parted.
        recipe: whose rows it reads.
        tokens: after which it is enough.
        marks: how often it asks until then.
    """

    def __init__(
        self, model: LanguageModel, found: Parts, judge: Selective, recipe: Recipe, tokens: int, marks: int
    ) -> None:
        self.model, self.judge, self.recipe, self.limit, self.every = model, judge, recipe, tokens, tokens / marks
        self.tests = self._batches(found.tests)
        self.kinds = {kind: self._batches([e for e in found.probe if e.metadata["kind"] == kind]) for kind in KINDS}
        self.first = self._judged(judge)
        self.seen, self.seconds, self.tokens = 0, 0.0, list[int]()
        self.held_out, self.groups = list[float](), dict[str, list[float]]()
        self._ask()

    def log(self, row: Mapping[str, Any]) -> None:
        """Count a step, and ask where a mark is passed."""
        if "tokens" not in row:
            return
        marks = int(self.seen / self.every)
        self.seen, self.seconds = self.seen + row["tokens"], self.seconds + row["seconds"]
        if int(self.seen / self.every) > marks:
            self._ask()

    def enough(self) -> bool:
        """Whether all tokens were seen."""
        return self.seen >= self.limit

    def curve(self, rows: Sequence[Example], objective: Objective) -> Curve:
        """What was found.

        Args:
            rows: what the arm passed over.
            objective: what it learned by.
        """
        if isinstance(objective, Selective):
            chosen = self._judged(objective)
            clean = float(chosen[: self._counts()[0]].sum() / chosen.sum())
        else:
            sizes = {kind: sum(len(e.text) for e in rows if e.metadata["kind"] == kind) for kind in KINDS}
            clean = sizes["clean"] / sum(sizes.values())
        return Curve(self.tokens, self.held_out, self.groups, clean, self.seconds)

    def _batches(self, documents: Sequence[Example]) -> list[Batch]:
        plan = Plan(self.recipe.batch_size, self.recipe.tokens, self.recipe.length)
        return [batch for step in NextToken().steps(self.model, documents, plan) for batch in step.batches]

    def _judged(self, judge: Selective) -> Tensor:
        """(N,) bool, which of the probe's tokens are chosen, kind by kind."""
        losses = judge.opened(self.model)
        try:
            with torch.no_grad():
                return judge.judge(self.model, losses, [batch for own in self.kinds.values() for batch in own]).chosen
        finally:
            losses.close()

    def _counts(self) -> list[int]:
        return [sum(int(batch.supervised.sum()) for batch in own) for own in self.kinds.values()]

    def _ask(self) -> None:
        """One point of the curve."""
        self.tokens.append(self.seen)
        self.held_out.append(float(torch.cat(live_losses(self.model, self.tests)).mean()))
        losses = torch.cat(live_losses(self.model, [batch for own in self.kinds.values() for batch in own]))
        found = {"chosen": losses[self.first], "others": losses[~self.first]}
        found |= dict(zip(KINDS, torch.split(losses, self._counts()), strict=True))
        for name, own in found.items():
            self.groups.setdefault(name, []).append(float(own.mean()))
