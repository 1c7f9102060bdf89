"""How good the model is while it learns an experience, by rows that are neither learned from nor tested on."""

from collections.abc import Callable
from functools import partial
from statistics import fmean
from typing import Any

import torch

from everlearn.errors import ConfigError
from everlearn.evaluate import Exam, sit
from everlearn.examples import Step
from everlearn.method import Context
from everlearn.models.optim import Validate
from everlearn.models.parallel import Processes
from everlearn.objectives.groups import Attempting, finals
from everlearn.randomness import seed_of
from everlearn.types import Reply

Forward = Callable[[Callable[[], Any]], Any]
"""Makes a forward pass."""
ATTEMPTS = 8
"""At each row, where attempts are judged."""


def measured(
    kind: Validate,
    ctx: Context,
    processes: Processes,
    forward: Callable[[Callable[[], Any]], Any] = lambda term: term(),
) -> float:
    """What the live model makes of the validation rows.

    Args:
        kind: see `Recipe`: a loss in nats per token, or a score in [0, 1].
        ctx: the moment.
        processes: share the rows of a loss; each asks them all for a score, since answers are wanted whole.
        forward: how a forward pass is made.

    Raises:
        ConfigError: if the experience cannot be measured so.
    """
    if kind == "loss":
        return _loss(ctx, processes, forward)
    with processes.gathered(ctx.model.module):
        return answered(ctx) if kind == "metric" else attempted(ctx)


def answered(ctx: Context) -> float:
    """The mean score of the model's answers by the experience's metric."""
    experience = ctx.experience
    task = experience.name if ctx.model.router is not None else ""
    exam = Exam(experience.name, tuple(experience.validation), experience.metric, experience.candidates, task=task)
    return fmean(outcome.score for outcome in sit(ctx.model, [exam])[0])


def attempted(ctx: Context) -> float:
    """The mean score of what the objective draws, by the experience's metric; the same random numbers each time."""
    experience, objective = ctx.experience, ctx.experience.objective
    if not isinstance(objective, Attempting) or experience.metric.question != "generate":
        raise ConfigError(
            f'{experience.name}: validate="attempts" judges what an objective draws by a metric of text, and here are '
            f'{objective} and {experience.metric}; set validate="metric".'
        )
    seed = seed_of(ctx.seed, ctx.seen, experience.name, "validation")
    found = objective.attempt(ctx.model, experience.validation, seed, ATTEMPTS)
    return fmean(experience.metric.score(a.example, Reply(a.trace.text)) for a in finals(found))


def _loss(ctx: Context, processes: Processes, forward: Forward) -> float:
    if isinstance(ctx.experience.objective, Attempting):
        raise ConfigError(
            f"{ctx.experience.name}: the loss of {type(ctx.experience.objective).__name__} is about 0 whatever the "
            'model can do; set the recipe\'s validate="metric" or validate="attempts".'
        )
    with torch.no_grad():
        total, weight = 0.0, 0.0
        for batch in ctx.batches(ctx.experience.validation):  # more may be there than fit into memory
            for part, share in processes.share(Step((batch,), 1.0)):
                total += float(forward(partial(ctx.loss, part))) * share * batch.weight
            weight += batch.weight
        return processes.add(total) / weight
