"""The rows of the table, in order; each function measures one or several of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks import continual, decoding, padding, pretraining, rewarding, scoring, selective, startup, training
from benchmarks.harness import DifferentError, Finding, NotThereError


@dataclass(frozen=True)
class Row:
    """A part of the table.

    Args:
        work: what is measured, for where it cannot be.
        measure: does so; True makes it quick.
    """

    work: str
    measure: Callable[[bool], list[Finding]]

    def findings(self, quick: bool = False) -> list[Finding]:
        """What was measured, or one finding that says why nothing was."""
        try:
            return self.measure(quick)
        except NotThereError as reason:
            return [Finding(self.work, "", None, checked=str(reason))]
        except DifferentError as reason:  # the other rows are still worth their time
            return [Finding(self.work, "", None, checked=str(reason), refused=True)]


ROWS: Mapping[str, Row] = {
    "fine-tuning": Row("fine-tuning, 2 x 512 tokens, half masked", training.fine_tuning),
    "memory": Row("the same: peak memory", training.memory),
    "instructions": Row("instruction rows, mean 127 tokens, answers 10 %", training.instructions),
    "padding": Row("rows of unlike lengths, laid together", padding.padding),
    "gradient": Row("gradient, cosine to fp32 autograd, worst tensor", training.gradient),
    "frozen-half": Row("top half of the layers trained, second epoch", training.frozen_half),
    "exact-match": Row("greedy exact match, 300 items", scoring.exact_match),
    "multiple-choice": Row("multiple choice, 500 items", scoring.multiple_choice),
    "sampling": Row("sampling, batch 32, 64 + 48 tokens", decoding.batch),
    "group": Row("groups of 8 samples, 4 prompts of 256, answers of 16", decoding.group),
    "grpo": Row(rewarding.WORK, rewarding.grpo),
    "grpo-memory": Row("the same: peak memory", rewarding.memory),
    "growth": Row("2 -> 50 experiences: memory and step time", continual.growth),
    "overhead": Row("overhead of L2SP, EWC, Replay 10 % for each new token", continual.overhead),
    "selective": Row("selective language modelling: time of a step", selective.overhead),
    "packed": Row(pretraining.WORK, pretraining.packed),
    "packed-memory": Row(f"{pretraining.WORK}: peak memory", pretraining.memory),
    "latent": Row("latent replay beside replay: time of a step", pretraining.latent),
    "start": Row("`import everlearn`; `everlearn --help`", startup.start),
}
