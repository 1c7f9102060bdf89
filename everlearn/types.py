"""The nouns: what a stream is made of, and what passes from one experience to the next.

Dimensions, here and everywhere: B rows of a batch, T tokens of a row, N supervised tokens of a batch, V vocabulary.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor

from everlearn.errors import ConfigError, DataError

Memory = Any
"""What a method keeps: plain data (None, bool, int, float, str, tensors, and lists, tuples and dicts of these)."""

Signal = Literal["documents", "demonstrations"]
Scenario = Literal["task", "domain", "class"]
Question = Literal["generate", "choose", "predict"]
Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True)
class Example:
    """One thing to learn from or to be tested on: a document, or a conversation that ends with the assistant.

    Args:
        text: a raw document; every token is a target. Empty for a conversation.
        messages: the turns; the assistant's are targets. Empty for a document.
        choices: the candidate answers, where the example brings its own; the last turn is the right one.
        metadata: plain JSON data that the example's metric needs (a task's own scorer, say).
        source: where it was read, as "file:line", for messages to people.
        origin: the experience it belongs to.
    """

    text: str = ""
    messages: tuple[Message, ...] = ()
    choices: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    origin: str = ""

    def __post_init__(self) -> None:
        """Refuse an example that is both a document and a conversation, or neither."""
        if bool(self.text) == bool(self.messages):
            raise DataError(
                f"{self.source or 'an example'} has to be either a text or a conversation; give one of them."
            )

    @property
    def prompt(self) -> tuple[Message, ...]:
        """The turns before the last: what the model is given when it is tested."""
        return self.messages[:-1]

    @property
    def response(self) -> str:
        """The content of the last turn: the right answer. Empty for a document."""
        return self.messages[-1].content if self.messages else ""

    @cached_property
    def key(self) -> str:
        """A stable name made of the content alone; the same example has the same key in every run."""
        content = json.dumps([self.text, [[m.role, m.content] for m in self.messages], list(self.choices)])
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def row(self) -> dict[str, Any]:
        """The example as plain data, for a method's memory and for files."""
        row: dict[str, Any] = {"text": self.text} if self.text else {}
        if self.messages:
            row["messages"] = [{"role": m.role, "content": m.content} for m in self.messages]
        if self.choices:
            row["choices"] = list(self.choices)
        if self.metadata:
            row["metadata"] = dict(self.metadata)
        return row | {"source": self.source, "origin": self.origin}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Example":
        """The inverse of `row`."""
        return cls(
            text=row.get("text", ""),
            messages=tuple(Message(m["role"], m["content"]) for m in row.get("messages", ())),
            choices=tuple(row.get("choices", ())),
            metadata=row.get("metadata", {}),
            source=row.get("source", ""),
            origin=row.get("origin", ""),
        )


@dataclass(frozen=True)
class Encoded:
    """An example in tokens.

    Args:
        tokens: token ids.
        supervised: for each token, whether it is a target (predicted from the tokens before it).
    """

    tokens: tuple[int, ...]
    supervised: tuple[bool, ...]


@dataclass(frozen=True)
class Batch:
    """Rows of tokens for one forward pass, padded on the right; a row may hold several documents.

    Args:
        tokens: (B, T) int64 token ids.
        positions: (B, T) int64 position of each token inside its own document.
        segments: (B, T) int64 number of the document inside its row, from 1; 0 is padding.
        supervised: (B, T) bool, the targets. The first token of a document is never one.
        examples: the examples in it, for methods that ask.
        shared: whether document 1 of each row is a prompt that the row's other documents continue, and see.
    """

    tokens: Tensor
    positions: Tensor
    segments: Tensor
    supervised: Tensor
    examples: tuple[Example, ...] = ()
    shared: bool = False

    @cached_property
    def weight(self) -> int:
        """Number of supervised tokens, N: the weight of this batch's mean loss inside its optimiser step."""
        return int(self.supervised.sum())


@dataclass(frozen=True)
class Step:
    """The batches of one optimiser step.

    Args:
        batches: one for each forward pass; their losses are averaged by weight.
        progress: the fraction of this pass over the examples that is done after the step, in (0, 1].
    """

    batches: tuple[Batch, ...]
    progress: float

    @property
    def weight(self) -> int:
        """Number of supervised tokens in the whole step."""
        return sum(batch.weight for batch in self.batches)


@dataclass(frozen=True)
class Plan:
    """How one pass over the examples is cut into optimiser steps.

    Args:
        batch_size: rows in an optimiser step.
        tokens: most tokens, padding counted, in one forward pass.
        length: longest row, in tokens.
        seed: decides the order; None keeps the given order.
        start: number of steps to leave out at the beginning, when a pass is resumed.
    """

    batch_size: int = 16
    tokens: int = 2048
    length: int = 512
    seed: int | None = None
    start: int = 0


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
    """One test example's score in [0, 1] under one version, with the reply that earned it."""

    key: str
    score: float
    reply: str = ""


class Model(Protocol):
    """What objectives, methods and metrics may ask of a language model; `LanguageModel` is ours."""

    @property
    def packs(self) -> bool:
        """Whether documents packed in one row get the log-probabilities that they get alone."""

    def encode(self, example: Example) -> Encoded:
        """The example's tokens and targets, by the model's own chat template."""

    def token_logprobs(self, batch: Batch) -> Tensor:
        """Log-probability in nats of each supervised token in row-major order, (N,), differentiable."""

    def trainable(self) -> dict[str, Tensor]:
        """The parameters that learn, by name."""


class Objective(Protocol):
    """How examples become batches, and a batch a scalar. Frozen data."""

    def steps(self, model: Model, examples: Sequence[Example], plan: Plan) -> Iterator[Step]:
        """One pass over the examples, cut into optimiser steps; on-policy objectives draw with the live model."""

    def loss(self, model: Model, batch: Batch) -> Tensor:
        """Scalar: the mean loss over the batch's weight, differentiable."""


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
    """

    experiences: tuple[Experience, ...]
    scenario: Scenario = "domain"
    name: str = "stream"
    online: bool = False

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
