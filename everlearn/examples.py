"""Examples, in words and in tokens, and the batches that are made of them.

Dimensions, here and everywhere: B rows of a batch, T tokens of a row, N supervised tokens of a batch, V vocabulary.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from everlearn.errors import DataError


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
class Teacher:
    """Another version that a batch's loss holds the model against.

    Args:
        batch: what it reads: row by row the same supervised tokens, in another context or in the same.
        weights: of it by parameter name, all that differ from the model's.
    """

    batch: "Batch"
    weights: Mapping[str, Tensor] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Batch:
    """Rows of tokens for one forward pass, padded on the right; a row may hold several documents.

    Args:
        tokens: (B, T) int64 token ids.
        positions: (B, T) int64 position of each token inside its own document.
        segments: (B, T) int64 number of the document inside its row, from 1; 0 is padding.
        supervised: (B, T) bool, the targets. The first token of a document is never one.
        examples: the examples in it, row by row, for methods that ask.
        shared: whether document 1 of each row is a prompt that the row's other documents continue, and see.
        tasks: for each row the experience that the model is told it belongs to, empty where it is not told; empty
            altogether where no row is.
        values: (B, T) numbers by token that the objective's loss asks for, by name: advantages, what an older version
            said; 0 where there is none.
        counts: (B,) each row's weight in the mean over its step; None takes its number of supervised tokens.
        teacher: whom its loss asks, where it asks anyone.
        tied: so many rows after one another have a loss together alone, as the two answers of a pair do, and are never
            parted.
        owned: how many of the examples each row has; empty where that is not known.
        told: what its loss, once computed, says beside itself, by name: each a mean over the batch, or over the part of
            it that this process has.
    """

    tokens: Tensor
    positions: Tensor
    segments: Tensor
    supervised: Tensor
    examples: tuple[Example, ...] = ()
    shared: bool = False
    tasks: tuple[str, ...] = ()
    values: Mapping[str, Tensor] = field(default_factory=dict)
    counts: Tensor | None = None
    teacher: Teacher | None = None
    tied: int = 1
    owned: tuple[int, ...] = ()
    told: dict[str, float] = field(default_factory=dict, compare=False)

    @cached_property
    def weight(self) -> float:
        """The weight of this batch's mean loss inside its optimiser step: N, or what its rows count for."""
        return float(self.supervised.sum() if self.counts is None else self.counts.sum())

    def at_targets(self, name: str) -> Tensor:
        """The values of a name at the supervised tokens in row-major order, (N,)."""
        return self.values[name][self.supervised]


@dataclass(frozen=True)
class Step:
    """The batches of one optimiser step.

    Args:
        batches: one for each forward pass; their losses are averaged by weight. None at all where nothing can be
            learned from the examples: nothing is moved then.
        progress: the fraction of this pass over the examples that is done after the step, in (0, 1].
        notes: numbers to be kept beside the step's loss.
        traces: plain data about what the model did, one by one, to be kept in a file.
        pausable: whether work that is stopped after this step can go on from it: not in the middle of steps that learn
            from the same completions.
    """

    batches: tuple[Batch, ...]
    progress: float
    notes: Mapping[str, float] = field(default_factory=dict)
    traces: tuple[Mapping[str, Any], ...] = ()
    pausable: bool = True

    @property
    def weight(self) -> float:
        """The weight of the whole step, over which its loss is the mean."""
        return sum(batch.weight for batch in self.batches)

    def noted(self) -> dict[str, float]:
        """Its notes, and the means of what the losses of its batches have told, over those that did."""
        found = dict(self.notes)
        for name in dict.fromkeys(name for batch in self.batches for name in batch.told):
            told = [batch for batch in self.batches if name in batch.told]
            whole = sum(batch.weight for batch in told)
            found[name] = sum(batch.told[name] * batch.weight for batch in told) / whole if whole else 0.0
        return found


@dataclass(frozen=True)
class Plan:
    """How one pass over the examples is cut into optimiser steps.

    Args:
        batch_size: rows in an optimiser step.
        tokens: most tokens, padding counted, in one forward pass.
        length: longest row, in tokens.
        seed: decides the order; None keeps the given order.
        start: number of steps to leave out at the beginning, when a pass is resumed.
        references: other versions that the objective asks for, by their names in its `references`: weights by
            parameter name, all that differ from the model's. There are none while a method prepares (`begin`): the
            model stands in for them.
        ramp: (tokens, batch_size, length) that hold once so many tokens of this pass are drawn, rising.
    """

    batch_size: int = 16
    tokens: int = 2048
    length: int = 512
    seed: int | None = None
    start: int = 0
    references: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict, repr=False, compare=False)
    ramp: tuple[tuple[int, int, int], ...] = ()

    def at(self, tokens: int) -> tuple[int, int]:
        """Batch size and length when so many tokens of this pass are drawn."""
        reached = [(batch_size, length) for start, batch_size, length in self.ramp if start <= tokens]
        return reached[-1] if reached else (self.batch_size, self.length)
