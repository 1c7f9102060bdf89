"""Attempts at tasks, and the rows that are made of them to learn from."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, pstdev
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from everlearn.data.packing import Row
from everlearn.examples import Batch, Encoded, Example
from everlearn.models.language_model import LanguageModel
from everlearn.models.recall import recalled
from everlearn.rewards.reward import Answer, Reward, notes_of
from everlearn.traces import Trace
from everlearn.weights import Tensors


@dataclass(frozen=True)
class Attempt:
    """A scored trace.

    Args:
        example: the task.
        trace: what was done.
        advantage: over the attempts that it is compared with; None where it could not be scored.
        notes: what the reward has noted of all attempts at the task.
    """

    example: Example
    trace: Trace
    advantage: float | None = None
    notes: Mapping[str, float] = field(default_factory=dict)


@runtime_checkable
class Attempting(Protocol):
    """An objective whose examples are tasks that the model attempts itself."""

    def attempt(
        self, model: LanguageModel, examples: Sequence[Example], seed: int, group: int | None = None
    ) -> list[Attempt]:
        """The model's attempts at tasks, with their rewards and advantages, task after task.

        Args:
            model: the policy.
            examples: the tasks.
            seed: decides all randomness.
            group: attempts at each; None takes as many as the objective, and leaves out what it does not learn from.
        """


def judged(example: Example, traces: Sequence[Trace], reward: Reward | None) -> list[Trace]:
    """The traces with their rewards.

    What an environment gave a trace stays, and what the reward finds of the last answer of its attempt is added. There
    is none where the attempt broke, or neither can be told, or the reward is asked and cannot tell.

    Args:
        example: the task.
        traces: of all attempts at it, each attempt's in order.
        reward: None where the environment's alone count.
    """
    if reward is None:
        return list(traces)
    asked = _ends(traces)
    scores = reward.score(example, list(asked.values()))
    found = dict(zip(asked, scores, strict=True))
    return [replace(t, reward=_added(t.reward, found.get(t.attempt))) for t in traces]


def reward_notes(example: Example, traces: Sequence[Trace], reward: Reward | None) -> Mapping[str, float]:
    """What a reward notes of what `judged` shows it."""
    asked = list(_ends(traces).values())
    return notes_of(reward, example, asked) if reward is not None and asked else {}


def finals(attempts: Sequence[Attempt]) -> list[Attempt]:
    """Of each attempt the last trace alone, whose text is its answer."""
    return list({(a.example.key, a.trace.attempt): a for a in attempts}.values())


def _ends(traces: Sequence[Trace]) -> dict[int, Answer]:
    """By attempt, the answer that it ended with, unless it broke; as long as all that was drawn for it."""
    drawn = Counter[int]()
    for trace in traces:
        drawn[trace.attempt] += trace.length
    last = {t.attempt: t for t in traces}
    return {n: Answer(t.text, t.finished, drawn[n]) for n, t in last.items() if not t.error}


def _added(given: float | None, found: float | None) -> float | None:
    return None if found is None else found + (given or 0.0)


def rows_of(
    attempts: Sequence[Attempt], packs: bool, tokens: int, old: bool, count: Callable[[int], float | None]
) -> list[Row]:
    """Rows to learn from: with a model that packs, attempts with the same prompt share it, as many as fit.

    Args:
        attempts: each with an advantage.
        packs: whether documents may share a row; a prompt then stands first, and each attempt continues it.
        tokens: most tokens of a row that is shared.
        old: whether rows bring the log-probabilities of when their tokens were drawn.
        count: what a row of so many attempts counts for.
    """
    if not packs:
        return [_alone(a, old, count(1)) for a in attempts]
    together: dict[tuple[int, ...], list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        together[attempt.trace.prompt].append(attempt)
    return [_shared(part, old, count(len(part))) for group in together.values() for part in _parts(group, tokens)]


def _parts(group: Sequence[Attempt], tokens: int) -> Iterator[list[Attempt]]:
    """As many attempts together as fit, one at least."""
    part: list[Attempt] = []
    width = len(group[0].trace.prompt)
    for attempt in group:
        size = 1 + len(attempt.trace.tokens)
        if part and width + size > tokens:
            yield part
            part, width = [], len(attempt.trace.prompt)
        part.append(attempt)
        width += size
    yield part


def _shared(part: Sequence[Attempt], old: bool, count: float | None) -> Row:
    """One row: the prompt but its last token, and behind that token each attempt."""
    prompt = part[0].trace.prompt
    before = [0.0] * (len(prompt) - 1)
    values = {name: before + [x for n in numbers for x in (0.0, *n)] for name, numbers in _numbers(part, old).items()}
    documents = [Encoded(prompt[:-1], (False,) * (len(prompt) - 1))]
    documents += [Encoded((prompt[-1], *a.trace.tokens), (False, *a.trace.drawn)) for a in part]
    return Row(tuple(documents), tuple(a.example for a in part), values=values, count=count)


def _alone(attempt: Attempt, old: bool, count: float | None) -> Row:
    trace = attempt.trace
    document = Encoded(trace.prompt + trace.tokens, (False,) * len(trace.prompt) + trace.drawn)
    before = [0.0] * len(trace.prompt)
    values = {name: before + numbers[0] for name, numbers in _numbers([attempt], old).items()}
    return Row((document,), (attempt.example,), values=values, count=count)


def _numbers(part: Sequence[Attempt], old: bool) -> dict[str, list[list[float]]]:
    """By name, each attempt's numbers for its tokens."""
    found = {"advantage": [[a.advantage or 0.0] * len(a.trace.tokens) for a in part]}
    return found | ({"old": [list(a.trace.logprobs) for a in part]} if old else {})


def attempts_of(batch: Batch) -> Tensor:
    """The number of the document that each supervised token belongs to, from 0 and without gaps, (N,)."""
    rows = torch.arange(len(batch.segments))[:, None] * (int(batch.segments.max()) + 1)
    _, numbers = torch.unique((rows + batch.segments)[batch.supervised], return_inverse=True)
    found: Tensor = numbers
    return found


def with_value(batch: Batch, name: str, values: Tensor) -> Batch:
    """The batch with (N,) values at its supervised tokens."""
    placed = torch.zeros(batch.supervised.shape, dtype=torch.float64)
    placed[batch.supervised] = values.detach().cpu().double()
    return replace(batch, values={**batch.values, name: placed})


def with_reference(
    model: LanguageModel, batches: Sequence[Batch], weights: Tensors, temperature: float = 1.0
) -> list[Batch]:
    """The batches with the "reference": what the model says of their supervised tokens with a version's weights."""
    with recalled(model, weights), torch.no_grad():
        said = [model.token_logprobs(batch, temperature=temperature) for batch in batches]
    return [with_value(batch, "reference", own) for batch, own in zip(batches, said, strict=True)]


def noted(attempts: Sequence[Attempt]) -> dict[str, float]:
    """What a step's attempts show: rewards, also by experience, how many teach nothing and why, and all notes.

    `entropy` is the mean of -log p over the drawn tokens, in nats: an estimate of the policy's entropy at the
    temperature that they were drawn at. `even` is the share of prompts at which all scored attempts did as well, of
    which `single` had one such attempt alone. `empty` is the share of attempts without text, however they were scored.
    """
    scored = [(a, a.trace.reward) for a in attempts if a.trace.reward is not None]
    groups: dict[str, list[float]] = defaultdict(list)
    origins: dict[str, list[float]] = defaultdict(list)
    for attempt, reward in scored:
        groups[attempt.trace.task].append(reward)
        origins[attempt.trace.origin].append(reward)
    chances = [p for a in attempts for p, mine in zip(a.trace.logprobs, a.trace.drawn, strict=True) if mine]
    found = {
        "attempts": float(len(attempts)),
        "unscorable": 1 - len(scored) / max(len(attempts), 1),
        "broken": fmean(bool(a.trace.error) for a in attempts) if attempts else 0.0,
        "even": fmean(pstdev(g) == 0 for g in groups.values()) if groups else 1.0,
        "single": fmean(len(g) == 1 for g in groups.values()) if groups else 0.0,
        "empty": fmean(not a.trace.text.strip() for a in attempts) if attempts else 0.0,
        "truncated": fmean(not a.trace.finished for a in attempts) if attempts else 0.0,
        "drawn": fmean(a.trace.length for a in attempts) if attempts else 0.0,
        "entropy": -fmean(chances) if chances else 0.0,
    }
    if scored:
        rewards = [reward for _, reward in scored]
        found |= {"reward": fmean(rewards), "reward_deviation": pstdev(rewards)}
    tasks = {a.trace.task: a.notes for a in attempts}
    for name in dict.fromkeys(name for notes in tasks.values() for name in notes):
        found[name] = fmean(notes[name] for notes in tasks.values() if name in notes)
    names = dict.fromkeys(name for a in attempts for name in a.trace.notes)
    found |= {n: fmean(a.trace.notes.get(n, 0.0) for a in attempts if a.trace.notes) for n in names}
    return found | {f"reward of {name}": fmean(own) for name, own in origins.items() if len(origins) > 1}
