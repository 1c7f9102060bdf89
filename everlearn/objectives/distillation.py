"""On-policy distillation: the model draws, and learns at each token of its own what a teacher would have said there.

The teacher is an older version of the model, or the model shown a demonstration. As expressions:

    recover what was lost    Distillation("base")                     on prompts of the kind that was lost
    stay what one was        Distillation("start")
    SDFT (2026)              Distillation("ema", shown=True)          arXiv:2601.19897
    from another version     Distillation("runs/a/version.safetensors")

On-policy distillation by the sampled token (`form="sampled"`) is Thinking Machines' (October 2025), which recovers the
chat behaviour of a model after it was trained on documents; the exact form is MiniLLM's objective (arXiv:2306.08543) at
each token by itself, GKD's (arXiv:2306.13649) with lambda 1 and the reverse divergence.

One paper reports that dense self-distillation from demonstrations forgets more than a policy gradient
(arXiv:2607.01763), so that the two are worth comparing.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from everlearn.data.packing import Row, collate, split_by_tokens
from everlearn.errors import ConfigError, DataError, ModelError
from everlearn.examples import Batch, Example, Message, Plan, Step, Teacher
from everlearn.models.language_model import LanguageModel
from everlearn.models.logprobs import ROWS, Said, Statistic, divergence_from
from everlearn.models.recall import recalled
from everlearn.models.top_logits import reverse_divergence, top_distance, top_of
from everlearn.objectives.groups import Attempt, noted, rows_of
from everlearn.objectives.on_policy import Lesson, passed
from everlearn.objectives.rollouts import Rollout, SingleTurn
from everlearn.rewards.reward import question, right_answer
from everlearn.traces import Trace
from everlearn.types import Model
from everlearn.weights import Tensors, load_tensors

TEMPLATE = """{question}

This is an example of a response to the question:
{demonstration}

Now answer with a response of your own."""


@dataclass(frozen=True)
class Distillation:
    """Say what a teacher says, at the tokens that the model draws itself; see the module.

    Each step takes `batch_size` prompts of the recipe, draws `group` completions of each with the live model, and
    lowers KL(model || teacher) at each drawn token, given those before it: the mean over drawn tokens, in nats, both at
    the sampling's temperature. The gradient goes through the model's distributions alone, not through what was drawn.
    Prompts are conversations; what their last turn says is seen by a teacher that is shown demonstrations, and by
    nobody else. Validation by "loss" is the same divergence. Memory: the parameters that learn once, and for a teacher
    read from a file those that it has.

    Differs from SDFT's paper (arXiv:2601.19897): the words that lead from a question and a demonstration to the
    teacher's answer are a reconstruction.

    Args:
        teacher: "base", the model before anything was learned; "start", the version that the experience began with;
            "ema", a running mean of the weights that begins there; or a file of a version's weights, as
            `everlearn.weights.save_tensors` writes them, which stand on those of the base.
        shown: whether the teacher reads each example's answer as a demonstration before it answers.
        form: "exact" has the whole distribution of each token; "sampled" that of the drawn token alone, by the policy
            gradient with advantage -(log p - log p_teacher), whose loss is an estimate of the same divergence.
        top: of the exact form, the teacher's most probable tokens that are told apart, all others being one; None tells
            all apart.
        direction: "reverse" is KL(model || teacher), which forbids what the teacher would not say; "forward" is
            KL(teacher || model), of the exact form alone, which forbids to miss what it would.
        decay: of the running mean, in each step.
        group: completions of each prompt.
        rollout: how the model draws.
        template: of the prompt of a teacher that is shown a demonstration, in place of the last user's turn.
    """

    teacher: str = "base"
    shown: bool = False
    form: Literal["exact", "sampled"] = "exact"
    top: int | None = None
    direction: Literal["reverse", "forward"] = "reverse"
    decay: float = 0.99
    group: int = 1
    rollout: Rollout = field(default_factory=SingleTurn)
    template: str = TEMPLATE

    def __post_init__(self) -> None:
        """Refuse forms that there are not, and numbers without a meaning."""
        if self.teacher not in ("base", "start", "ema") and not self.teacher.endswith(".safetensors"):
            raise ConfigError(f"teacher={self.teacher!r}: give base, start, ema, or a .safetensors file of weights.")
        if self.form not in ("exact", "sampled") or self.direction not in ("reverse", "forward"):
            raise ConfigError(f"{self}: form is exact or sampled, and direction reverse or forward.")
        if self.form == "sampled" and (self.top is not None or self.direction == "forward"):
            raise ConfigError(
                f'{self}: form="sampled" has one token at each place, and the reverse direction; see top.'
            )
        if self.group < 1 or not 0 <= self.decay <= 1 or (self.top is not None and self.top < 1):
            raise ConfigError(f"{self}: group and top are 1 or more, decay lies in [0, 1].")
        if self.shown and not all(mark in self.template for mark in ("{question}", "{demonstration}")):
            raise ConfigError(f"template={self.template!r} has to hold {{question}} and {{demonstration}}.")

    @property
    def references(self) -> Mapping[str, float]:
        """The teacher, or what it stands on."""
        name = self.teacher if self.teacher in ("start", "ema") else "base"
        return {name: self.decay if name == "ema" else 1.0}

    def steps(self, model: Model, examples: Sequence[Example], plan: Plan) -> Iterator[Step]:
        """One pass over the prompts, `plan.batch_size` of them in a step, completed by the live model.

        Raises:
            DataError: if an example is a document, or has no answer where the teacher is to be shown one.
            ModelError: if the model cannot be sampled from, or the teacher's weights are not its own kind's.
        """
        yield from passed(model, examples, plan, partial(self._taught, plan, self._weights(plan)))

    def loss(self, model: Model, batch: Batch) -> Tensor:
        """Scalar: the mean divergence from the teacher at the drawn tokens, in nats."""
        if not isinstance(model, LanguageModel) or batch.teacher is None:
            raise ModelError("distillation's loss is that of its own steps' batches, by a LanguageModel.")
        teacher, temperature = batch.teacher, self.rollout.sampling.temperature
        if self.form == "exact":
            with recalled(model, teacher.weights):
                said = model.said(teacher.batch)
            return model.token_statistic(batch, self._divergence(said, temperature)).mean()
        with recalled(model, teacher.weights), torch.no_grad():
            theirs = model.token_logprobs(teacher.batch, temperature=temperature)
        mine = model.token_logprobs(batch, temperature=temperature)
        gap = mine.detach() - theirs
        return (gap + gap * (mine - mine.detach())).mean()  # the value of the estimate, the policy gradient's slope

    def _divergence(self, said: Said, temperature: float) -> Statistic:
        if self.top is None:
            return divergence_from(said, temperature, self.direction == "forward")
        return _top_divergence(said, self.top, temperature, self.direction == "forward")

    def _weights(self, plan: Plan) -> Tensors:
        """The teacher's, all that differ from the model's; as they move, where they do."""
        if self.teacher in self.references:
            return plan.references.get(self.teacher, {})
        return {**plan.references.get("base", {}), **load_tensors(Path(self.teacher))}

    def _taught(
        self, plan: Plan, weights: Tensors, model: LanguageModel, examples: Sequence[Example], seed: int
    ) -> Lesson:
        attempts = self._drawn(model, examples, seed)
        found = noted(attempts)
        notes = {name: found[name] for name in ("attempts", "truncated", "drawn", "entropy")}
        batches = self._batches(model, [a for a in attempts if a.trace.length], plan, weights)
        return Lesson(tuple(batches), notes, tuple(a.trace.row() for a in attempts))

    def _drawn(self, model: LanguageModel, examples: Sequence[Example], seed: int) -> list[Attempt]:
        for example in examples:
            if self.shown and right_answer(example) is None:
                raise DataError(f"{example.source or example.key} has no answer to show; set shown=False, or drop it.")
        groups = self.rollout.run(model, examples, self.group, seed)
        return [Attempt(e, trace) for e, traces in zip(examples, groups, strict=True) for trace in traces]

    def _batches(
        self, model: LanguageModel, attempts: Sequence[Attempt], plan: Plan, weights: Tensors
    ) -> Iterator[Batch]:
        """The attempts as batches, each with what the teacher reads of it."""
        packs = model.packs and not self.shown  # a shown teacher has a longer prompt, and so other rows
        rows = rows_of(attempts, packs, plan.tokens, False, lambda count: None)
        theirs = self._shown_rows(model, attempts) if self.shown else rows
        for group in split_by_tokens(theirs, plan.tokens):
            batch = collate([rows[i] for i in group], packs)
            read = collate([theirs[i] for i in group], packs) if self.shown else batch
            yield replace(batch, teacher=Teacher(read, weights))

    def _shown_rows(self, model: LanguageModel, attempts: Sequence[Attempt]) -> list[Row]:
        """The same completions, after a prompt with the demonstration in it."""
        asked = {a.example.key: a.example for a in attempts}
        prompts = {
            key: (model.encode_prompt(question(e)), model.encode_prompt(self._prompt(e))) for key, e in asked.items()
        }
        shown = [replace(a, trace=self._shown_trace(a.trace, *prompts[a.example.key])) for a in attempts]
        return rows_of(shown, False, 0, False, lambda count: None)

    def _shown_trace(self, trace: Trace, own: tuple[int, ...], shown: tuple[int, ...]) -> Trace:
        if trace.prompt[: len(own)] != own:
            raise ConfigError(f"{self.rollout} asks otherwise than its examples do; a shown teacher needs SingleTurn.")
        return replace(trace, prompt=shown + trace.prompt[len(own) :])

    def _prompt(self, example: Example) -> tuple[Message, ...]:
        *before, asked = question(example)
        words = {"{question}": asked.content, "{demonstration}": example.response}
        text = "".join(words.get(part, part) for part in _parts(self.template))
        return (*before, Message(asked.role, text))


def _parts(template: str) -> list[str]:
    """The template cut at its marks, so that what is filled in is not searched for marks."""
    return re.split(r"(\{question\}|\{demonstration\})", template)


def _top_divergence(said: Said, count: int, temperature: float, forward: bool) -> Statistic:
    """The divergence over the teacher's most probable tokens and the rest."""

    def statistic(logits: Tensor, part: slice) -> Tensor:
        found = []
        for rows, fixed in zip(torch.split(logits, ROWS), torch.split(said.logits(part), ROWS), strict=True):
            top = top_of(fixed.to(torch.promote_types(fixed.dtype, torch.float32)) / temperature, count)
            cooled = rows.to(top.values.dtype) / temperature
            values, slopes = top_distance(cooled, top, "kl") if forward else reverse_divergence(cooled, top)
            found.append(values)
            rows.copy_(slopes / temperature)
        return torch.cat(found)

    return statistic
