"""Selective language modelling (Rho-1, arXiv:2404.07965): next tokens, but those alone that are worth learning.

A reference, trained on curated text, says what a token's loss could be. What the live model loses beyond that is the
token's excess loss; an optimiser step learns from the top share of its tokens by excess, and from no others. As
expressions, in a stream's `objective:`

    Rho-1                     Selective("models/curated", share=0.6)
    without curated text      Selective("models/own", score="both")      a reference trained on the same corpus

The reference is a model in a directory: one that `everlearn merge` made of a run's version, say. It has to have the
live model's tokens, and in the paper comes from the same base.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor

from everlearn.errors import ConfigError, ModelError
from everlearn.examples import Batch, Example, Plan, Step
from everlearn.models.language_model import LanguageModel
from everlearn.models.parallel import launched, passes
from everlearn.models.token_losses import TokenLosses
from everlearn.objectives.next_token import NextToken
from everlearn.types import Model

CHOSEN, REFERENCE = "chosen", "reference"
SCORES = ("excess", "loss", "entropy", "both")


@dataclass(frozen=True)
class Judged:
    """What was found of the N supervised tokens of several batches, in row-major order, one batch after the other.

    Args:
        numbers: (N,) each in nats, by name: "live" and "reference" losses, the reference's "entropy"; what was asked.
        scores: (N,) by which tokens are ranked; the larger, the sooner chosen. Of "both" by the loss.
        chosen: (N,) bool.
    """

    numbers: Mapping[str, Tensor]
    scores: Tensor
    chosen: Tensor

    def notes(self) -> dict[str, float]:
        """The share chosen, and the mean of each number over chosen tokens and over the others, where there are any."""
        found = {"chosen": float(self.chosen.double().mean())}
        for name, numbers in self.numbers.items():
            for group, where in (("chosen", self.chosen), ("others", ~self.chosen)):
                found |= {f"{name}_{group}": float(numbers[where].mean())} if where.any() else {}
        return found


@dataclass(frozen=True)
class Selective:
    """Mean negative log-likelihood of the top share of a step's supervised tokens, in nats per chosen token.

    Rows, windows and padding are those of `NextToken`. Tokens are ranked over the whole optimiser step: over all its
    rows, forward passes and processes, not row by row; what is no target is not ranked. No gradient goes through the
    choice. Of equal scores the earlier token is chosen. With share=1 it is `NextToken` to the bit. What a method adds
    to the batch's loss (a penalty by `LwF`, say) still sees all tokens. Validation by "loss" is the same mean, over
    the tokens that are chosen there.

    The live model's losses cost nothing where a step is one forward pass of one process: the pass that learns is the
    one that chooses. A step of more passes is read once more without gradient, as the step is drawn and by the model as
    it then is: a third more time where all weights learn, up to a half with adapters. Raise the recipe's `tokens`, or
    take ranking="pass". Scores by the reference alone cost nothing.

    The reference's numbers are computed once and kept on disk: see `everlearn.models.token_losses`; 4 bytes a token,
    twice that for score="both".

    The paper names the self-reference scores, and not which end of them is taken: low ones are a reconstruction (what
    the reference finds likely is not noise), `highest` the other reading.

    Args:
        reference: a hub name, a directory, a GGUF file, or "embedded"; trained from the same base, in the paper.
        share: of the step's supervised tokens that are chosen, in (0, 1]; the paper's k %. One token at least, but for
            score="both", whose two choices of that share may have none in common: nothing is learned then.
        score: "excess" is the live model's loss less the reference's; "loss" the reference's alone; "entropy" that of
            its distribution; "both" takes what loss and entropy both choose.
        highest: whether loss and entropy choose high ones.
        ranking: "step" ranks over the whole step; "pass" over each forward pass in each process by itself, by excess,
            without a second pass.
        packed: whether documents share rows, as in `NextToken`.
        folder: where the reference's numbers are kept; None takes this package's cache.
    """

    counts_tokens: ClassVar[bool] = True

    reference: str
    share: float = 0.6
    score: Literal["excess", "loss", "entropy", "both"] = "excess"
    highest: bool = False
    ranking: Literal["step", "pass"] = "step"
    packed: bool = True
    folder: str | None = None

    def __post_init__(self) -> None:
        """Refuse shares without a meaning, and words that there are not."""
        if not self.reference or not 0 < self.share <= 1:
            raise ConfigError(f"{self}: name a reference, and a share above 0 and at most 1.")
        if self.score not in SCORES or self.ranking not in ("step", "pass"):
            raise ConfigError(f"{self}: score is one of {', '.join(SCORES)}; ranking is step or pass.")
        if self.score == "excess" and self.highest:
            raise ConfigError(f"{self}: high excess is always chosen; highest is for loss, entropy and both.")

    @property
    def references(self) -> Mapping[str, float]:
        """None that comes with the plan."""
        return {}

    def steps(self, model: Model, examples: Sequence[Example], plan: Plan) -> Iterator[Step]:
        """One pass over the examples; a step has `plan.batch_size` rows, and its tokens are chosen as it is drawn.

        Raises:
            DataError: if a conversation is longer than `plan.length`.
            ModelError: if the reference cannot be had or has other tokens, or the model is no LanguageModel.
        """
        plain = NextToken(self.packed).steps(model, examples, plan)
        if self.share == 1:
            yield from plain
            return
        with closing(self.opened(model)) as losses:
            for step in plain:
                yield self._told(model, losses, step) if self._late(step) else self._marked(model, losses, step)

    def loss(self, model: Model, batch: Batch) -> Tensor:
        """Scalar: the batch's part in the mean over the step's chosen tokens.

        Raises:
            ModelError: if the batch was not laid out by `steps`.
        """
        if self.share == 1:
            return -model.token_logprobs(batch).mean()
        if REFERENCE in batch.values:
            losses = -model.token_logprobs(batch)
            scores = losses.detach() - batch.at_targets(REFERENCE).to(losses)
            return losses[top(scores, self.share)].mean()
        if CHOSEN not in batch.values:
            raise ModelError("the selective loss is that of its own steps' batches, which know what was chosen.")
        weights = batch.at_targets(CHOSEN)
        losses = -model.token_logprobs(replace(batch, supervised=batch.values[CHOSEN] > 0))
        return losses.mean() * (float(weights.sum()) / len(weights)) if len(losses) else losses.sum()

    def opened(self, model: Model) -> TokenLosses:
        """The reference beside a live model.

        Raises:
            ModelError: if the live model is no LanguageModel, or the reference cannot be had.
        """
        if not isinstance(model, LanguageModel):
            raise ModelError(f"{type(model).__name__} is no LanguageModel, beside which a reference could be opened.")
        return TokenLosses(self.reference, model, Path(self.folder) if self.folder else None)

    def judge(self, model: Model, losses: TokenLosses, batches: Sequence[Batch]) -> Judged:
        """The scores of all supervised tokens of the batches together, and the choice among them."""
        said = {"reference": losses.of(batches, "loss")} if self.score != "entropy" else {}
        said |= {"entropy": losses.of(batches, "entropy")} if self.score in ("entropy", "both") else {}
        said |= {"live": live_losses(model, batches)} if self.score == "excess" else {}
        numbers = {name: torch.cat(parts) for name, parts in said.items()}
        if self.score == "excess":
            scores = numbers["live"] - numbers["reference"]
            return Judged(numbers, scores, top(scores, self.share))
        sign = 1 if self.highest else -1
        ranked = [sign * numbers[name] for name in ("reference", "entropy") if name in numbers]
        chosen = torch.stack([top(scores, self.share) for scores in ranked]).all(0)
        return Judged(numbers, ranked[0], chosen)

    def _late(self, step: Step) -> bool:
        """Whether the pass that learns is the one that chooses."""
        alone = len(step.batches) == 1 and launched().count == 1
        return self.score == "excess" and (alone or self.ranking == "pass")

    def _told(self, model: Model, losses: TokenLosses, step: Step) -> Step:
        """The step, with what the reference said."""
        said = losses.of(step.batches, "loss")
        return replace(step, batches=tuple(map(_valued, step.batches, [REFERENCE] * len(said), said)))

    def _marked(self, model: Model, losses: TokenLosses, step: Step) -> Step:
        """The step, with weights of its tokens: N / k where chosen, for k chosen of N, so that their mean is the loss.

        A part of a step, however it is cut, then has its part of the mean.
        """
        found = self.judge(model, losses, step.batches)
        if not found.chosen.any():
            return replace(step, batches=(), notes={**step.notes, **found.notes()})
        weights = found.chosen.double() / found.chosen.double().mean()
        parts = torch.split(weights, [int(batch.supervised.sum()) for batch in step.batches])
        batches = map(_valued, step.batches, [CHOSEN] * len(parts), parts)
        return replace(step, batches=tuple(batches), notes={**step.notes, **found.notes()})


def top(scores: Tensor, share: float) -> Tensor:
    """Which of N scores are among the top share, (N,) bool: the nearest whole number of them, one at least."""
    count = max(1, math.floor(share * len(scores) + 0.5))
    order = scores.sort(descending=True, stable=True).indices[:count]
    return torch.zeros_like(scores, dtype=torch.bool).index_fill(0, order, True)


def live_losses(model: Model, batches: Sequence[Batch]) -> list[Tensor]:
    """(N,) losses of each batch's supervised tokens, on the CPU; processes launched together read a part each.

    Where parameters are sharded, all make as many passes: one that has fewer reads the smallest batch for nothing.
    """
    here, forward = launched(), passes(model)
    mine, most = batches[here.index :: here.count], math.ceil(len(batches) / here.count)
    spare = sorted(batches, key=lambda batch: batch.tokens.numel())[:1] if here.sharding == "sharded" else []
    with torch.no_grad():
        read = [*mine, *spare * (most - len(mine))]
        found = [-forward(partial(model.token_logprobs, batch)).double().cpu() for batch in read]
    parts = here.gather(found[: len(mine)])
    return [parts[i % here.count][i // here.count] for i in range(len(batches))]


def _valued(batch: Batch, name: str, numbers: Tensor) -> Batch:
    """The batch with a number at each supervised token."""
    grid = torch.zeros(batch.tokens.shape, dtype=torch.float64)
    grid[batch.supervised] = numbers
    return replace(batch, values={**batch.values, name: grid})
