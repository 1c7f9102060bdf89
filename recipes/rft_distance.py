"""How far each version of a run moved: KL(before || after) of whole answers, in nats.

One answer to each prompt is drawn from the version before, up to a limit, and at each of its tokens the divergence of
the two distributions over the whole vocabulary is taken; their sum along the answer is, on average over answers, the
divergence of the two versions' distributions over answers (of that many tokens at most).
"""

from collections.abc import Sequence
from statistics import fmean

import torch

from everlearn.data.packing import Row, collate, split_by_tokens
from everlearn.examples import Batch, Encoded, Example
from everlearn.fold import Run
from everlearn.learner import Learner
from everlearn.models.language_model import LanguageModel
from everlearn.models.logprobs import Said, divergence_from
from everlearn.models.sampling import Sampling
from everlearn.objectives.rollouts import SingleTurn
from everlearn.types import Stream

TOKENS = 2048
"""Most tokens in one forward pass."""

Answers = Sequence[tuple[Batch, Said]]
"""Answers of a version, with what it said at each of their tokens."""


def answers(model: LanguageModel, examples: Sequence[Example], limit: int, seed: int) -> Answers:
    """One answer to each prompt, drawn from the model as it is now.

    Args:
        model: who answers.
        examples: whose prompts are answered.
        limit: most tokens of an answer.
        seed: of the draws.
    """
    traces = [one for (one,) in SingleTurn(Sampling(limit=limit)).run(model, examples, 1, seed)]
    rows = [Row((Encoded((*t.prompt, *t.tokens), (False,) * len(t.prompt) + (True,) * len(t.tokens)),)) for t in traces]
    batches = [collate([rows[i] for i in group]) for group in split_by_tokens(rows, TOKENS)]
    return [(batch, model.said(batch)) for batch in batches]


def distance(model: LanguageModel, before: Answers) -> float:
    """KL(before || model) in nats an answer, the mean over answers that were drawn before."""
    with torch.no_grad():
        nats = [float(model.token_statistic(batch, divergence_from(said)).sum()) for batch, said in before]
    return sum(nats) / sum(len(batch.tokens) for batch, _ in before)


def distances(learner: Learner, run: Run, stream: Stream, prompts: int, limit: int) -> dict[str, float]:
    """How far a finished run moved.

    Args:
        learner: that made it.
        run: which.
        stream: that was learned.
        prompts: test prompts of each experience, the first ones, that are answered.
        limit: most tokens of an answer.

    Returns:
        kl_new: from an experience's start to its end, on its own prompts; the mean over experiences.
        kl_old: the same on the prompts of those before it; the mean over experiences and those before each.
        kl_base: from the base model to the last version, on the prompts of all.
    """
    versions = [event.version for event in run.events if event.kind == "commit"]
    asked = {e.name: list(e.test)[:prompts] for e in stream}
    model, seed = learner.open(), learner.seed
    base = start = {name: answers(model, rows, limit, seed) for name, rows in asked.items()}
    new, old = list[float](), list[float]()
    for number, version in enumerate(versions[1:]):
        learner.restore(model, run.files.versions.get(version))
        *before, now = [distance(model, start[name]) for name in stream.names[: number + 1]]
        new, old = [*new, now], [*old, *before]
        start = {name: answers(model, asked[name], limit, seed) for name in stream.names[: number + 2]}
    found = {"kl_new": fmean(new), "kl_base": fmean(distance(model, base[name]) for name in asked)}
    return found | ({"kl_old": fmean(old)} if old else {})
