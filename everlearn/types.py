"""The nouns: what a stream is made of, and what passes from one experience to the next.

Dimensions, here and everywhere: B rows of a batch, T tokens of a row, N supervised tokens of a batch, V vocabulary.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor

from everlearn.errors import ConfigError
from everlearn.examples import Batch, Encoded, Example, Plan, Step

Memory = Any
"""What a method keeps: plain data (None, bool, int, float, str, tensors, and lists, tuples and dicts of these)."""

Scenario = Literal["task", "domain", "class"]
Question = Literal["generate", "choose", "predict"]


@dataclass(frozen=True)
class Given:
    """What a stream's scenario tells a model beside a test example's prompt.

    Args:
        candidates: what it may choose among; empty where the example brings its own choices, or generation is free.
        task: the experience that the example belongs to; empty where that has to be inferred, or is not needed.
        shown: demonstrations that stand before it, each with its answer; conversations before a conversation,
            documents before a document.
    """

    candidates: tuple[str, ...] = ()
    task: str = ""
    shown: tuple[Example, ...] = ()


@dataclass(frozen=True)
class Reply:
    """What a model answered to one test example.

    Args:
        text: the generated text or the chosen candidate. Empty for a document.
        loss: mean negative log-likelihood of the target, in nats per token, where it was measured.
        right: the fraction of target tokens whose argmax is right, where it was measured.
    """

    text: str = ""
    loss: float | None = None
    right: float | None = None


@dataclass(frozen=True)
class Outcome:
    """One test example's score in [0, 1] under one version, with the reply that earned it.

    Args:
        key: the example's.
        score: how the reply was judged.
        reply: the text.
        routed: the experience that a model which infers it took the prompt for; empty where none was inferred.
        confidence: of that, in [0, 1].
    """

    key: str
    score: float
    reply: str = ""
    routed: str = ""
    confidence: float = 0.0


class Model(Protocol):
    """What objectives, methods and metrics may ask of a language model; `LanguageModel` is ours."""

    @property
    def packs(self) -> bool:
        """Whether documents packed in one row get the log-probabilities that they get alone."""

    def encode(self, example: Example) -> Encoded:
        """The example's tokens and targets, by the model's own chat template."""

    def token_logprobs(self, batch: Batch, targets: Tensor | None = None, temperature: float = 1.0) -> Tensor:
        """Log-probability in nats of each supervised token in row-major order, (N,), differentiable.

        Args:
            batch: what the model reads.
            targets: (N,) other tokens to score at the same places, instead of the batch's own.
            temperature: logits are divided by it.
        """

    def trainable(self) -> dict[str, Tensor]:
        """The parameters that learn, by name."""


@runtime_checkable
class Objective(Protocol):
    """How examples become batches, and a batch a scalar. Frozen data."""

    @property
    def references(self) -> Mapping[str, float]:
        """Other versions that it looks at, which come with the plan; most objectives look at none.

        By name, "base", "start" (of the experience) or any other, which begins at the start; with the decay of a
        running mean of the weights, by optimiser steps: 1 stands still.
        """

    def steps(self, model: Model, examples: Sequence[Example], plan: Plan) -> Iterator[Step]:
        """One pass over the examples, cut into optimiser steps; on-policy objectives draw with the live model."""

    def loss(self, model: Model, batch: Batch) -> Tensor:
        """Scalar: the mean loss over the batch's weight, differentiable."""


@runtime_checkable
class Metric(Protocol):
    """How a reply is judged. Frozen data; its class and fields name its definition.

    `question` says what the model is asked: to generate an answer, to choose among candidates by likelihood,
    or to predict each token of a given text.
    """

    @property
    def question(self) -> Question:
        """What the model is asked."""

    def score(self, example: Example, reply: Reply) -> float:
        """A number in [0, 1], higher is better."""


@dataclass(frozen=True)
class Experience:
    """One thing to learn, and how it is known whether it was learned.

    Args:
        name: unique in its stream; letters, digits, and any of ``. _ -``.
        train: what is learned from; may be a lazy sequence over a file larger than memory.
        validation: for early stopping and model selection; never the test set.
        test: what the matrix is measured on.
        objective: how the examples teach.
        metric: how it is judged.
        labels: the closed set of answers, where there is one.
        candidates: the answers offered at inference, set by the stream's scenario; empty means free generation.
    """

    name: str
    train: Sequence[Example]
    test: Sequence[Example]
    objective: Objective
    metric: Metric
    validation: Sequence[Example] = ()
    labels: tuple[str, ...] = ()
    candidates: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a name that could not be a file's."""
        if not self.name or not all(c.isalnum() or c in "._-" for c in self.name):
            raise ConfigError(f"experience name {self.name!r}: use letters, digits, and any of . _ - only.")


@dataclass(frozen=True)
class Stream:
    """An ordered sequence of experiences with unique names.

    Args:
        experiences: in the order they are learned.
        scenario: whether task identity and label set reach inference: "task" gives each experience its own
            labels, "class" offers the union of all labels, "domain" gives neither.
        name: for reports.
        online: whether every example may be seen once only; a learner then makes a single pass.
        blurry: whether some training rows are met in another experience than their own.
    """

    experiences: tuple[Experience, ...]
    scenario: Scenario = "domain"
    name: str = "stream"
    online: bool = False
    blurry: bool = False

    def __post_init__(self) -> None:
        """Refuse an empty stream and names that stand twice."""
        names = [e.name for e in self.experiences]
        twice = sorted({n for n in names if names.count(n) > 1})
        if not names or twice:
            raise ConfigError(
                f"stream {self.name!r}: "
                + (f"names stand twice: {twice}; rename." if twice else "it has no experience.")
            )

    def __iter__(self) -> Iterator[Experience]:
        """The experiences in order."""
        return iter(self.experiences)

    def __len__(self) -> int:
        """Number of experiences, T."""
        return len(self.experiences)

    @property
    def names(self) -> tuple[str, ...]:
        """The experiences' names in order."""
        return tuple(e.name for e in self.experiences)

    def ordered(self, names: Sequence[str]) -> "Stream":
        """The same experiences in another order.

        Raises:
            ConfigError: if `names` is not a permutation of the experiences' names.
        """
        if sorted(names) != sorted(self.names):
            raise ConfigError(
                f"order {list(names)} is not a permutation of {list(self.names)}; name each experience once."
            )
        by_name = {e.name: e for e in self.experiences}
        return replace(self, experiences=tuple(by_name[n] for n in names))


@dataclass(frozen=True)
class State:
    """All that passes from one experience to the next. A version is one value of it.

    Args:
        weights: by parameter name, what differs from the base model; trained values in full precision.
        memory: the method's.
        seen: names of the experiences learned, in order.
    """

    weights: Mapping[str, Tensor] = field(default_factory=dict)
    memory: Memory = None
    seen: tuple[str, ...] = ()


@runtime_checkable
class Progress(Protocol):
    """Who wants to know how far long work is: a terminal, a log, or nobody."""

    def update(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Work named `stage` has done `done` of `total` units."""


class Silent:
    """Progress that nobody watches."""

    def update(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Say nothing."""
