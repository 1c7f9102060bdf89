"""What a small set of documents is worth, by a short annealing run (Llama 3, arXiv:2407.21783, 3.1.3).

The learning rate falls to 0 over a few tokens, of which the candidates make up 30 % and the usual mix the rest; a
control run sees the usual mix alone, as many tokens of it. What the candidates gain on held-out documents beyond the
control is their worth. The paper does so with 40 billion tokens and a half-trained 8B model.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from everlearn.errors import ConfigError, DataError
from everlearn.examples import Example
from everlearn.learner import Learner, learn
from everlearn.metrics.likelihood import TokenLikelihood
from everlearn.models.language_model import LanguageModel
from everlearn.models.schedules import Schedule
from everlearn.objectives.next_token import NextToken
from everlearn.randomness import permutation
from everlearn.selecting.criteria import DocumentReader
from everlearn.statistics import mean_interval
from everlearn.types import Experience, Progress, Silent, State
from everlearn.watch import Watch


@dataclass(frozen=True)
class Worth:
    """What candidates are worth.

    Args:
        before: loss of each held-out document before the runs, in nats per token.
        control: after the usual mix alone.
        candidate: after the usual mix with the candidates.
        epochs: how often the candidates were seen, on average; above 4 or so the run says more about repetition.
    """

    before: tuple[float, ...]
    control: tuple[float, ...]
    candidate: tuple[float, ...]
    epochs: float

    @property
    def gain(self) -> float:
        """How much lower the loss is than the control's, in nats per token, the mean over documents."""
        return fmean(a - b for a, b in zip(self.control, self.candidate, strict=True))

    @property
    def interval(self) -> tuple[float, float]:
        """Of the gain over documents, at 95 %; what another seed would change is not in it."""
        return mean_interval([a - b for a, b in zip(self.control, self.candidate, strict=True)])

    def __str__(self) -> str:
        """In words, with numbers."""
        low, high = self.interval
        return f"{self.gain:.4f} [{low:.4f}, {high:.4f}] nats per token below the control, {len(self.before)} documents"


@dataclass(frozen=True)
class AnnealingProbe:
    """A short run in which the learning rate falls to 0.

    Args:
        tokens: seen in each of the two runs.
        share: of them from the candidates, in (0, 1].
    """

    tokens: int = 20_000
    share: float = 0.3

    def __post_init__(self) -> None:
        """Refuse runs without tokens, and shares that there are not."""
        if self.tokens < 1 or not 0 < self.share <= 1:
            raise ConfigError(f"{self}: tokens is 1 or more, share lies in (0, 1].")

    def worth(
        self,
        learner: Learner,
        state: State | None,
        candidates: Sequence[Example],
        usual: Sequence[Example],
        held_out: Sequence[Example],
        progress: Progress | None = None,
    ) -> Worth:
        """What candidates are worth to a version.

        Args:
            learner: how it learns; its learning rate is the one from which it falls, and its schedule and epochs are
                the probe's.
            state: the version; None takes the base model. It stays as it is.
            candidates: documents to be valued.
            usual: the mix that it is trained on.
            held_out: documents of what it should become good at, none of them among the others.
            progress: who wants to know how far it is.

        Raises:
            DataError: if one of the sets has no documents, or a held-out one is among the others.
        """
        _require_apart(candidates, usual, held_out)
        recipe = replace(learner.recipe, schedule=Schedule("linear", warmup=0.0), epochs=1)
        learner, watch = replace(learner, recipe=recipe), Watch(progress=progress or Silent())
        model = learner.open()
        start = learner.start(model) if state is None else state
        few, (rest, _) = round(self.share * self.tokens), _worth_of(model, usual, self.tokens, learner.seed)
        chosen, epochs = _worth_of(model, candidates, few, learner.seed)
        beside, _ = _worth_of(model, usual, self.tokens - few, learner.seed)
        runs = {"control": rest, "candidates": [*chosen, *beside]}
        before, found = _losses(learner.restore(model, start), held_out), list[tuple[float, ...]]()
        for name, documents in runs.items():
            model = learner.restore(learner.open(), start)
            learn(learner, model, start, Experience(name, documents, held_out, NextToken(), TokenLikelihood()), watch)
            found.append(_losses(model, held_out))
        return Worth(before, found[0], found[1], epochs)


def _losses(model: LanguageModel, documents: Sequence[Example]) -> tuple[float, ...]:
    return tuple(loss / max(n, 1) for loss, n in DocumentReader(model).losses(documents))


def _worth_of(
    model: LanguageModel, documents: Sequence[Example], tokens: int, seed: int
) -> tuple[list[Example], float]:
    """Documents of so many tokens, in an order that the seed draws, again and again; and how often on average."""
    found, left = list[Example](), tokens
    for example in _endless(documents, seed):
        if left <= 0:
            break
        found.append(example)
        left -= len(model.encode(example).tokens)
    return found, len(found) / len(documents)


def _endless(documents: Sequence[Example], seed: int) -> Iterator[Example]:
    epoch = 0
    while True:
        yield from (documents[i] for i in permutation(len(documents), seed, "annealing", epoch))
        epoch += 1


def _require_apart(candidates: Sequence[Example], usual: Sequence[Example], held_out: Sequence[Example]) -> None:
    empty = [n for n, d in (("candidates", candidates), ("usual", usual), ("held_out", held_out)) if not len(d)]
    if empty:
        raise DataError(f"{empty[0]}: there are no documents in it.")
    asked = {example.key for example in held_out}
    both = next((e for documents in (candidates, usual) for e in documents if e.key in asked), None)
    if both is not None:
        raise DataError(f"{both.source or both.key} is held out and learned from; keep held-out documents apart.")
