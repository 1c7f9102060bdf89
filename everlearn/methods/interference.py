"""Replay chosen by gradients: what the next step would harm most, and a buffer whose gradients differ."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import ClassVar

import torch
from torch import Tensor

from everlearn.data.buffers import mixed, turns
from everlearn.data.packing import rows_alone
from everlearn.data.sequences import each
from everlearn.errors import ConfigError
from everlearn.examples import Example
from everlearn.method import Context, Method, Tensors
from everlearn.methods.replay import Selection, offered, replayed
from everlearn.models.language_model import LanguageModel
from everlearn.models.recall import recalled
from everlearn.randomness import integers
from everlearn.types import Memory


@dataclass(frozen=True)
class MIR(Method):
    """Replay, in each step, the stored examples that it would harm most (maximally interfered, arXiv:1908.04742).

    Of `candidates` stored examples drawn at random, those are replayed whose loss would rise most under the step about
    to be taken: l(theta - rate g) - l(theta), with g the gradient of the whole step, penalties included, and l the
    mean negative log-likelihood of an example's supervised tokens in nats, whatever the objective. The gradient of
    their mean loss under the objective is added to g. Differs from the paper: only earlier experiences are replayed,
    and the rise is taken from the present loss, not from the lowest seen so far (the paper has both).

    Extra compute in each step: two forward passes for `candidates` examples, a forward and a backward pass for `rows`,
    and two copies of what learns. The step looked ahead is rounded to the parameters' dtype: in half precision adapters
    alone, which are kept in full, show what a small one does. Memory: the text of `capacity` examples.

    Args:
        strength: weight of the replayed loss beside the new one.
        rows: stored examples replayed in a step.
        candidates: stored examples that they are chosen from.
        rate: learning rate of the step looked ahead, which is plain gradient descent.
        capacity: most examples kept in all.
        selection: what is kept, as of `Replay`.
    """

    keeps: ClassVar[str] = "capacity examples, in all"
    computes: ClassVar[str] = "two forward passes over candidates and a gradient, each step"

    strength: float = 1.0
    rows: int = 8
    candidates: int = 32
    rate: float = 0.1
    capacity: int = 1000
    selection: Selection = "reservoir"

    def __post_init__(self) -> None:
        """Refuse counts below one, and numbers that are negative."""
        if not 0 <= self.strength < float("inf") or not 0 < self.rate < float("inf"):
            raise ConfigError(f"{self}: strength is 0 or more, rate above 0, both finite.")
        if min(self.rows, self.candidates, self.capacity) < 1:
            raise ConfigError(f"{self}: rows, candidates and capacity are 1 or more.")
        if self.selection not in ("reservoir", "balanced", "classes"):
            raise ConfigError(f"{self}: selection is reservoir, balanced or classes.")

    def init(self, model: LanguageModel) -> Memory:
        """An empty buffer."""
        return {"rows": [], "groups": [], "seen": 0}

    def grad(self, memory: Memory, grads: Tensors, ctx: Context) -> Tensors:
        """The gradient, and that of the stored examples which a step along it would harm most."""
        held = len(memory["rows"])
        if not held or not self.strength:
            return grads
        drawn = turns(held, min(self.candidates, held), ctx.rng("candidates"))
        examples = [Example.from_row(memory["rows"][i]) for i in drawn]
        rises = self._rises(examples, grads, ctx)
        worst = rises.argsort(descending=True, stable=True)[: self.rows].tolist()
        total = dict(grads)
        for own, share in _shares([examples[i] for i in worst], ctx):
            total = {n: g + self.strength * share * own[n].to(g) for n, g in total.items()}
        return total

    def end(self, memory: Memory, ctx: Context) -> Memory:
        """The buffer after the experience's own examples were offered to it."""
        return offered(memory, self.selection, self.capacity, ctx)

    def _rises(self, examples: Sequence[Example], grads: Tensors, ctx: Context) -> Tensor:
        """By how much a step along the gradient would raise each example's loss, (N,), in nats per token."""
        parameters, before = ctx.trainable(), _losses(examples, ctx)
        ahead = {n: p.detach().to(grads[n]) - self.rate * grads[n] for n, p in parameters.items()}
        with recalled(ctx.model, ahead):
            return _losses(examples, ctx) - before


@dataclass(frozen=True)
class GSS(Method):
    """Store examples whose gradients point in different directions (gradient sample selection, arXiv:1903.08671).

    The greedy form (algorithm 2). Examples are offered one by one; one's score c is 1 + the largest cosine between its
    gradient and those of `compared` stored examples, drawn at random. A full buffer takes it only if c is less than
    1 + `admitted`: then a stored example i is drawn with probability C_i / sum C, where C are the scores at storing,
    and replaced with probability C_i / (C_i + c). What is stored is replayed as by `Replay`.

    Differs from the paper: examples are offered at the end of an experience, in random order, under the version that
    it ends with. Left open there: the first example of all has nothing to be compared with and gets a score of 1.
    Gradients of language models seldom have a negative cosine: raise `admitted` where the buffer does not change any
    more. Extra compute: `candidates` x (1 + `compared`) backward passes at the end of an experience. Memory: the text
    of `capacity` examples and 8 bytes for the score of each.

    Args:
        fraction: share of replayed examples among all examples trained on, in [0, 1).
        capacity: most examples kept in all.
        compared: n, stored examples that a new one is compared with.
        candidates: most examples of an experience that are offered, a uniform sample of them.
        admitted: the cosine below which an example may replace another one; the paper's is 0.
    """

    keeps: ClassVar[str] = "capacity examples, in all"
    computes: ClassVar[str] = "gradients of candidates and of those compared, at the end"

    fraction: float = 0.1
    capacity: int = 1000
    compared: int = 10
    candidates: int = 256
    admitted: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a share that leaves no room for new examples, counts below one, and what is no cosine."""
        if not 0 <= self.fraction < 1 or min(self.capacity, self.compared, self.candidates) < 1:
            raise ConfigError(f"{self}: fraction is in [0, 1), capacity, compared and candidates 1 or more.")
        if not -1 <= self.admitted <= 1:
            raise ConfigError(f"{self}: admitted is a cosine, in [-1, 1].")

    def init(self, model: LanguageModel) -> Memory:
        """An empty buffer."""
        return {"rows": [], "scores": []}

    def data(self, memory: Memory, examples: Sequence[Example], ctx: Context) -> Sequence[Example]:
        """The new examples, and as many old ones as the fraction asks for."""
        count = replayed(self.fraction, "constant", len(examples), ctx.seen)
        return mixed(examples, memory["rows"], count, ctx.rng("replay"))

    def end(self, memory: Memory, ctx: Context) -> Memory:
        """The buffer after the experience's own examples were offered to it."""
        rows, scores, rng = list(memory["rows"]), list(memory["scores"]), ctx.rng("keep")
        train = ctx.experience.train
        order = torch.randperm(len(train), generator=rng)[: self.candidates]
        for example in each(train, integers(order)):
            score = self._score(example, rows, ctx, rng)
            row = example.row() | {"origin": ctx.experience.name}
            if len(rows) < self.capacity:
                rows.append(row)
                scores.append(score)
            elif score < 1 + self.admitted and (place := _replaced(scores, score, rng)) is not None:
                rows[place], scores[place] = row, score
        return {"rows": rows, "scores": scores}

    def _score(
        self, example: Example, rows: Sequence[Mapping[str, object]], ctx: Context, rng: torch.Generator
    ) -> float:
        """1 + the largest cosine with stored examples, in [0, 2]; 1 where nothing is stored."""
        if not rows:
            return 1.0
        own, cosines = _gradient(example, ctx), []
        for i in turns(len(rows), min(self.compared, len(rows)), rng):  # one at a time: each is as large as what learns
            other = _gradient(Example.from_row(rows[i]), ctx)
            cosines.append(_dot(own, other) / max(sqrt(_dot(own, own) * _dot(other, other)), 1e-300))
        return min(max(1 + max(cosines), 0.0), 2.0)  # rounding may leave the range


def _replaced(scores: Sequence[float], score: float, rng: torch.Generator) -> int | None:
    """Which stored example goes, if any."""
    stored = torch.tensor(scores, dtype=torch.float64)
    if not float(stored.sum()):
        return None  # all point away from each other as far as can be
    place = int(torch.multinomial(stored, 1, generator=rng))
    goes = float(torch.rand((), generator=rng, dtype=torch.float64)) < scores[place] / (scores[place] + score)
    return place if goes else None


def _losses(examples: Sequence[Example], ctx: Context) -> Tensor:
    """Each example's mean negative log-likelihood, (N,) fp64 on the CPU, in nats per supervised token."""
    found = torch.zeros(len(examples), dtype=torch.float64)
    documents = [(ctx.model.encode(e), e) for e in examples]
    with torch.no_grad():
        for group, batch in rows_alone(documents, ctx.plan.length, ctx.plan.tokens):
            counts = batch.supervised.sum(1).tolist()
            parts = torch.split(ctx.model.token_logprobs(batch).double().cpu(), counts)
            found[group] = -torch.stack([part.mean() for part in parts])
    return found


def _gradient(example: Example, ctx: Context) -> Tensors:
    """The gradient of one example's mean loss under the objective."""
    total: dict[str, Tensor] = {}
    for grads, share in _shares([example], ctx):
        total = {n: g * share + total.get(n, 0.0) for n, g in grads.items()}
    return total


def _shares(examples: Sequence[Example], ctx: Context) -> Iterator[tuple[Tensors, float]]:
    """For each batch of the examples the gradient of its mean loss, and its share of their supervised tokens."""
    batches = list(ctx.batches(examples))
    weight = sum(b.weight for b in batches)
    yield from ((ctx.grads(ctx.loss(b)), b.weight / weight) for b in batches)


def _dot(a: Tensors, b: Tensors) -> float:
    return sum((float((g.double() * b[n].double()).sum()) for n, g in a.items()), start=0.0)
