"""Our side of the rows that train: what the peers are compared with, and nothing of theirs is imported."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from typing import Any

import torch

from benchmarks.harness import Sample, clock
from benchmarks.inputs import documents, lesson, rows
from everlearn import (
    Example,
    LanguageModel,
    Learner,
    LoRA,
    Message,
    Method,
    PolicyGradient,
    Sampling,
    SingleTurn,
    State,
    chain,
)
from everlearn.examples import Plan
from everlearn.learner import learn
from everlearn.models.engine import Engine
from everlearn.models.optim import AdamW, Recipe
from everlearn.rewards.reward import Answer
from everlearn.watch import Watch

RATE = 2e-5
"""TRL's default learning rate, so that both sides see the same losses."""

LONG = Recipe(AdamW(learning_rate=RATE), batch_size=2, length=512, tokens=1024)
"""2 rows of 512 tokens in a step."""

WHOLE = Recipe(AdamW(learning_rate=RATE), batch_size=2, length=1024, tokens=1024)
"""2 rows of 1024 tokens in a step, one in a pass, for training all weights."""

GROUPS = Recipe(AdamW(learning_rate=1e-6), batch_size=8, length=512, tokens=2048)
"""8 prompts in a step, at TRL's default rate for rewards."""

SIZES = ((256, 256),) * 4
"""Two steps of them; half of each row is masked."""


@dataclass(frozen=True)
class Lesson:
    """How one experience was learned.

    Args:
        steps: CPU seconds of each optimiser step; the first one holds what comes before it.
        losses: of each step.
        tokens: real tokens seen.
        end: seconds after the last step.
        state: the new version.
    """

    steps: tuple[float, ...]
    losses: tuple[float, ...]
    tokens: int
    end: float
    state: State

    @property
    def loss(self) -> float:
        """Mean over the steps."""
        return sum(self.losses) / len(self.losses)


def learner(recipe: Recipe, *methods: Method, dtype: str | None = None) -> Learner:
    """The embedded model with LoRA of rank 16 on all linears, and what else is asked for."""
    return Learner("embedded", chain(LoRA(rank=16), *methods), recipe, dtype=dtype)


def study(by: Learner, model: LanguageModel, state: State, examples: Sequence[Example], name: str = "lesson") -> Lesson:
    """Learn the examples, with a time for each step."""
    times, losses, tokens = [clock()], list[float](), list[int]()

    def log(row: dict[str, float]) -> None:
        times.append(clock())
        losses.append(row["loss"])
        tokens.append(int(row["tokens"]))

    after = learn(by, model, state, lesson(name, examples), Watch(log=log))
    steps = tuple(b - a for a, b in pairwise(times))
    return Lesson(steps, tuple(losses), sum(tokens), clock() - times[-1], after)


def side(by: Learner, model: LanguageModel, examples: Sequence[Example]) -> Sample:
    """Learn the examples once, all of it counted."""
    start = clock()
    done = study(by, model, by.start(model), examples)
    return Sample(clock() - start, done)


def train_long() -> list[float]:
    """Two steps of 2 x 512 tokens in a process of its own; the losses."""
    by = learner(LONG)
    model = by.open()
    return list(study(by, model, by.start(model), rows(model, SIZES, 0)).losses)


def pretrainer(checkpointing: bool = False) -> Learner:
    """The embedded model, all of it learning."""
    return Learner("embedded", recipe=WHOLE, engine=Engine(checkpointing=checkpointing))


def pretrain_once(checkpointing: bool) -> list[float]:
    """A step of 2 x 1024 tokens in a process of its own; its loss."""
    by = pretrainer(checkpointing)
    model = by.open()
    return list(study(by, model, by.start(model), documents(model, WHOLE.batch_size, WHOLE.length, 0)).losses)


def typical(steps: Sequence[float]) -> float:
    """The median step, without the first, which holds what comes before it."""
    return median(steps[1:])


def adapter(model: LanguageModel, examples: Sequence[Example]) -> State:
    """A young adapter: a few steps at the default rate."""
    by = learner(replace(LONG, optimiser=AdamW()))
    return study(by, model, by.start(model), examples).state


def vowels(text: str) -> float:
    """The share of vowels: a reward that tells any two answers apart, at no cost."""
    return sum(letter in "aeiou" for letter in text) / max(len(text), 1)


@dataclass(frozen=True)
class Vowels:
    """`vowels` as a reward."""

    def score(self, example: Example, replies: Sequence[Answer]) -> list[float | None]:
        """One score for each reply."""
        return [vowels(reply.text) for reply in replies]


def attempted(by: Learner, model: LanguageModel, examples: Sequence[Example], samples: int, limit: int) -> Sample:
    """One step of GRPO; the value is what was done."""
    objective = PolicyGradient(Vowels(), samples, SingleTurn(Sampling(limit=limit)), scale="group")
    experience, rows = replace(lesson("rewards", examples), objective=objective), list[Any]()
    start = clock()
    learn(by, model, by.start(model), experience, Watch(log=rows.append))
    return Sample(clock() - start, {"steps": len(rows), "drawn": rows[0]["notes"]["drawn"]})


def attempt_once(prompts: Sequence[str], samples: int, limit: int) -> dict[str, float]:
    """One step of GRPO in a process of its own."""
    by = learner(GROUPS)
    turns = [(Message("user", text), Message("assistant", "time")) for text in prompts]
    return dict(attempted(by, by.open(), [Example(messages=both) for both in turns], samples, limit).value)


def grads(model: LanguageModel, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """The gradient of a step by our own path, by name."""
    experience = lesson("gradient", examples)
    plan = Plan(batch_size=len(examples), tokens=LONG.tokens, length=LONG.length)
    (step,) = experience.objective.steps(model, examples, plan)
    parameters = model.trainable()
    with model.learning():
        terms = [experience.objective.loss(model, b) * (b.weight / step.weight) for b in step.batches]
        found = torch.autograd.grad(torch.stack(terms).sum(), list(parameters.values()))
    return {name: g.float() for name, g in zip(parameters, found, strict=True)}
