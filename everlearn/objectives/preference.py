"""Learning from preferences: what was judged better becomes more probable than what was judged worse.

One objective with the loss as an argument. The field's names, as expressions:

    DPO      Preference(DPO(beta=0.1))                              arXiv:2305.18290
    cDPO     Preference(DPO(beta=0.1, smoothing=0.1))               https://ericmitchell.ai/cdpo.pdf
    rDPO     Preference(RobustDPO(beta=0.1, smoothing=0.1))         arXiv:2403.00409
    SLiC     Preference(Hinge(beta=0.1))                            arXiv:2305.10425, arXiv:2309.06657
    IPO      Preference(IPO(beta=0.1))                              arXiv:2310.12036
    SimPO    Preference(SimPO(beta=2.0, margin=1.0))                arXiv:2405.14734
    RPO      Preference(DPO(beta=0.1), nll=1.0)                     arXiv:2404.19733
    KTO      Preference(KTO(beta=0.1))                              arXiv:2402.01306

A preference is a pair, an example with two choices, or a single judged answer; see `everlearn.data.preferences`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal

import torch
from torch import Tensor

from everlearn.errors import ConfigError, DataError, ModelError
from everlearn.examples import Batch, Example, Plan, Step
from everlearn.models.language_model import LanguageModel
from everlearn.models.recall import recalled
from everlearn.objectives.criteria import DPO, Criterion
from everlearn.objectives.groups import with_reference, with_value
from everlearn.objectives.judged import Case, batches_of, case_of, judged_of, mismatched, weights_of
from everlearn.randomness import permutation
from everlearn.types import Model


@dataclass(frozen=True)
class Preference:
    """The mean of a criterion over the pairs, or the judged answers, of a step; see the module.

    Each counts alike, however long, or what its `metadata["weight"]` says. The last turn alone is learned.

    Args:
        criterion: the loss of a pair, or of an answer.
        reference: whom the criterion compares with: the version "start" that the experience began with, the "base"
            model before anything was learned, or the "ema", a running mean of the weights that begins at the start.
        decay: of the running mean, in each step.
        nll: strength of the chosen answers' own negative log-likelihood, in nats per token of each, which is added so
            that they do not become less probable together with the rejected ones.
        noted: every so many steps the model is asked, before it moves, how it judges the step's answers, at the cost of
            a forward pass: implicit rewards, their margin, and the share of pairs that it has right; 0 never.
    """

    criterion: Criterion = field(default_factory=DPO)
    reference: Literal["start", "base", "ema"] = "start"
    decay: float = 0.99
    nll: float = 0.0
    noted: int = 10

    def __post_init__(self) -> None:
        """Refuse numbers without a meaning."""
        if self.nll < 0 or self.noted < 0 or not 0 <= self.decay <= 1:
            raise ConfigError(
                f"nll={self.nll}, noted={self.noted}, decay={self.decay}: nll and noted are not negative, and decay "
                "lies in [0, 1]."
            )
        if self.nll and not self.criterion.paired:
            raise ConfigError(f"nll={self.nll} raises chosen answers, and {self.criterion} knows no pairs; leave it 0.")

    @property
    def references(self) -> Mapping[str, float]:
        """The version that it looks at, with the decay of its running mean."""
        return {self.reference: self.decay if self.reference == "ema" else 1.0} if self.criterion.anchored else {}

    def steps(self, model: Model, examples: Sequence[Example], plan: Plan) -> Iterator[Step]:
        """One pass over the preferences, `plan.batch_size` of them in a step.

        Raises:
            DataError: if an example is no preference, or of another kind than the criterion compares, or too long.
            ModelError: if the model is no `LanguageModel`, whose weights alone can be exchanged.
        """
        if not isinstance(model, LanguageModel):
            raise ModelError(f"{type(model).__name__} cannot be another version; a preference needs a LanguageModel.")
        count = len(examples)
        order = range(count) if plan.seed is None else permutation(count, plan.seed, "examples")
        for number, first in enumerate(range(0, count, plan.batch_size)):
            if number < plan.start:
                continue
            chosen = [examples[i] for i in order[first : first + plan.batch_size]]
            batches = self._batches(model, [self._case(model, e, plan.length) for e in chosen], plan)
            notes = self._notes(model, batches) if self.noted and number % self.noted == 0 else {}
            yield Step(batches, min(first + plan.batch_size, count) / count, notes)

    def loss(self, model: Model, batch: Batch) -> Tensor:
        """Mean over the batch's pairs, or answers, by weight: a scalar."""
        answers = judged_of(batch, model.token_logprobs(batch))
        losses = self.criterion.losses(answers)
        if self.nll:
            losses = losses - self.nll * answers.logprobs[::2] / answers.lengths[::2]
        weights = weights_of(batch, self.criterion.paired).to(losses)
        return (losses * weights).sum() / weights.sum()

    def _case(self, model: LanguageModel, example: Example, length: int) -> Case:
        case = case_of(model, example, length)
        if self.criterion.paired and len(case.answers) != 2:
            raise DataError(
                f"{example.source or example.key} is one judged answer, and {self.criterion} compares two; take KTO."
            )
        return case

    def _batches(self, model: LanguageModel, cases: Sequence[Case], plan: Plan) -> tuple[Batch, ...]:
        """The cases as batches, with what the criterion needs of the reference."""
        batches = batches_of(cases, model.packs, plan.tokens, self.criterion.paired)
        if not self.criterion.anchored:
            return tuple(batches)
        batches = with_reference(model, batches, plan.references.get(self.reference, {}))
        if not self.criterion.compared:
            return tuple(batches)
        apart = self._apart(model, mismatched(cases), plan)
        said = [batch.at_targets("reference") for batch in batches]
        return tuple(with_value(b, "baseline", torch.full_like(s, apart)) for b, s in zip(batches, said, strict=True))

    def _apart(self, model: LanguageModel, cases: Sequence[Case], plan: Plan) -> float:
        """max(0, mean log(p / p_ref)) over the cases' answers; 0 of none."""
        batches = batches_of(cases, model.packs, plan.tokens, False)
        with torch.no_grad():
            total = sum(float(model.token_logprobs(b).double().sum()) for b in batches)
            with recalled(model, plan.references.get(self.reference, {})):
                total -= sum(float(model.token_logprobs(b).double().sum()) for b in batches)
        return max(0.0, total / max(1, sum(len(case.answers) for case in cases)))

    def _notes(self, model: LanguageModel, batches: Sequence[Batch]) -> dict[str, float]:
        """How the model judges a step's answers before it moves."""
        rewards: list[tuple[float, bool]] = []
        with torch.no_grad():
            for batch in batches:
                answers = judged_of(batch, model.token_logprobs(batch))
                rewards += zip(self.criterion.rewards(answers).tolist(), answers.good.tolist(), strict=True)
        found = {
            name: fmean(own)
            for name, good in (("chosen_reward", True), ("rejected_reward", False))
            if (own := [reward for reward, said in rewards if said is good])
        }
        if not self.criterion.paired:
            return found
        margins = [a - b for (a, _), (b, _) in zip(rewards[::2], rewards[1::2], strict=True)]
        return found | {"margin": fmean(margins), "accuracy": fmean(m > 0 for m in margins)}
