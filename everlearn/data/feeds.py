"""Tokens in the order of a plan: pieces of documents drawn one by one, and laid into the rows of optimiser steps.

A feed is a function of what it draws from and of a seed; going on in the middle of a document is drawing again up to
there. Nothing is in memory but a document of each source.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from everlearn.data.mixes import Mix
from everlearn.data.packing import Row
from everlearn.data.sequences import each
from everlearn.errors import DataError
from everlearn.examples import Encoded, Example, Plan
from everlearn.randomness import permutation

Encode = Callable[[Example], Encoded]
Piece = tuple[Encoded, Example]


class Source:
    """One source at work: its documents in one order after another, cut wherever one asks.

    Args:
        encode: from an example to tokens.
        examples: one at least.
        seed: decides the orders, with the name; None keeps the given one.
        name: for messages.
    """

    def __init__(self, encode: Encode, examples: Sequence[Example], seed: int | None, name: str) -> None:
        self.encode, self.examples, self.seed, self.name = encode, examples, seed, name
        self.tokens, self.done, self.at = 0, 0, 0
        self._coming: Iterator[Example] = iter(())
        self._empty = 0  # documents of one token, one after another
        self._document: Piece | None = None

    @property
    def epochs(self) -> float:
        """Passes over its documents that are done."""
        return self.done / len(self.examples)

    def open(self) -> Piece:
        """The document to draw from next, opened where none is.

        Raises:
            DataError: if none of them has two tokens, so that one predicts the other.
        """
        while self._document is None:
            if self.done % len(self.examples) == 0:
                self._coming = each(self.examples, self._order(self.done // len(self.examples)))
            example = next(self._coming)
            encoded = self.encode(example)
            if len(encoded.tokens) > 1:
                self._document, self.at, self._empty = (encoded, example), 0, 0
                break
            self.done, self._empty = self.done + 1, self._empty + 1
            if self._empty >= len(self.examples):
                raise DataError(
                    f"the source {self.name!r} has no document of two tokens; give it text, or leave it out."
                )
        return self._document

    def left(self) -> int:
        """Tokens of that document that are to be drawn, with one that was, as context."""
        return len(self.open()[0].tokens) - self.at

    def whole(self) -> bool:
        """Whether it cannot be cut: a conversation."""
        return not self.open()[1].text

    def take(self, tokens: int) -> Piece:
        """Its next tokens: 2 or more, and no more than are left."""
        (encoded, example), start, end = self.open(), self.at, self.at + tokens
        first = (encoded.supervised[0] if start == 0 else False,)
        piece = Encoded(encoded.tokens[start:end], first + encoded.supervised[start + 1 : end])
        self.tokens, self.at = self.tokens + tokens, end - 1  # the last token is the next piece's context
        if end == len(encoded.tokens):
            self._document, self.done = None, self.done + 1
        return piece, example

    def _order(self, epoch: int) -> Sequence[int]:
        count = len(self.examples)
        return range(count) if self.seed is None else permutation(count, self.seed, "source", self.name, epoch)


class Feed(Protocol):
    """Where pieces come from."""

    @property
    def tokens(self) -> int:
        """Drawn so far."""

    def next(self) -> tuple[Source, int] | None:
        """The source to draw from now, and how many tokens at most; None where all is drawn."""

    def progress(self) -> float:
        """The fraction that is drawn, in [0, 1]."""

    def notes(self) -> Mapping[str, float]:
        """The account, for the log."""


class OnePass:
    """Each example once.

    Args:
        encode: from an example to tokens.
        examples: what to draw.
        seed: decides the order; None keeps the given one.
    """

    def __init__(self, encode: Encode, examples: Sequence[Example], seed: int | None) -> None:
        self.source = Source(encode, examples, seed, "examples")

    @property
    def tokens(self) -> int:
        """Drawn so far."""
        return self.source.tokens

    def next(self) -> tuple[Source, int] | None:
        """The examples, until all were drawn."""
        count = len(self.source.examples)
        found = (self.source, self.source.left()) if self.source.done < count else None
        return found if self.source.done < count else None  # documents of one token are passed over, to the end too

    def progress(self) -> float:
        """The fraction of the examples."""
        return self.source.epochs

    def notes(self) -> Mapping[str, float]:
        """Nothing."""
        return {}


@dataclass(frozen=True)
class Account:
    """What was drawn, by phase and source.

    Args:
        tokens: for each phase, by source.
        epochs: passes over each source that are done; above 1 it has been repeated.
    """

    tokens: tuple[Mapping[str, int], ...]
    epochs: Mapping[str, float] = field(default_factory=dict)

    @property
    def total(self) -> dict[str, int]:
        """Tokens of all phases by source."""
        return {name: sum(phase[name] for phase in self.tokens) for name in self.epochs}


class MixFeed:
    """A mix, drawn phase by phase; of its sources always the one that is furthest behind.

    A phase ends when every source has what was asked up to its end, from the beginning: what is left over for want of
    a piece to fit (one token of a document, half a conversation) is made up for by the next.

    Args:
        encode: from an example to tokens.
        mix: what to draw.
        seed: decides the order inside each source; None keeps the given one.
    """

    def __init__(self, encode: Encode, mix: Mix, seed: int | None) -> None:
        self.mix, self.phase = mix, 0
        self.sources = {name: Source(encode, rows, seed, name) for name, rows in mix.sources.items()}
        self.begun = [dict.fromkeys(mix.sources, 0)]
        self.goals, asked = list[Mapping[str, int]](), dict.fromkeys(mix.sources, 0.0)
        for phase in mix.phases:
            asked = {name: known + phase.tokens * phase.share(name) for name, known in asked.items()}
            self.goals.append({name: round(tokens) for name, tokens in asked.items()})

    @property
    def tokens(self) -> int:
        """Drawn so far."""
        return sum(source.tokens for source in self.sources.values())

    def next(self) -> tuple[Source, int] | None:
        """The source that is furthest behind in this phase, and what it lacks."""
        while self.phase < len(self.goals):
            begun, goals = self.begun[-1], self.goals[self.phase]
            open_ = [name for name, source in self.sources.items() if self._lacks(source, goals[name])]
            if open_:
                name = min(open_, key=lambda n: (self.sources[n].tokens - begun[n]) / (goals[n] - begun[n]))
                source = self.sources[name]
                return source, source.left() if source.whole() else min(source.left(), goals[name] - source.tokens)
            self.phase += 1
            self.begun.append({name: source.tokens for name, source in self.sources.items()})
        return None

    def _lacks(self, source: Source, goal: int) -> bool:
        missing = goal - source.tokens
        return missing >= 2 and (not source.whole() or 2 * missing >= source.left())

    def progress(self) -> float:
        """The fraction of the tokens."""
        return 1.0 if self.phase == len(self.goals) else min(1.0, self.tokens / self.mix.tokens)

    def notes(self) -> Mapping[str, float]:
        """Where it is, and what was drawn of each source since the beginning."""
        notes = {"phase": float(min(self.phase + 1, len(self.goals)))}
        notes |= {f"tokens of {name}": float(source.tokens) for name, source in self.sources.items()}
        return notes | {f"epochs of {name}": source.epochs for name, source in self.sources.items()}

    def account(self) -> Account:
        """What was drawn so far."""
        now = {name: source.tokens for name, source in self.sources.items()}
        ends = [*self.begun[1:], *([now] if self.phase < len(self.goals) else [])]
        pairs = zip(self.begun, ends, strict=False)
        phases = tuple({name: end[name] - start[name] for name in now} for start, end in pairs)
        return Account(phases, {name: source.epochs for name, source in self.sources.items()})


def feed(encode: Encode, examples: Sequence[Example], plan: Plan) -> OnePass | MixFeed:
    """What one pass over the examples draws."""
    if isinstance(examples, Mix):
        return MixFeed(encode, examples, plan.seed)
    return OnePass(encode, examples, plan.seed)


def account(encode: Encode, mix: Mix, plan: Plan, packed: bool = True) -> Account:
    """What a mix will have drawn at its end, found by drawing all of it: which sources repeat, and how often.

    Args:
        encode: from an example to tokens, as a model's.
        mix: what to draw.
        plan: the rows' length, and the seed.
        packed: whether documents share rows.
    """
    drawn = MixFeed(encode, mix, plan.seed)
    for _ in steps_of(drawn, plan, packed):
        pass
    return drawn.account()


def steps_of(drawn: Feed, plan: Plan, packed: bool = True) -> Iterator[list[Row]]:
    """The rows of each optimiser step, in the feed's order; batch and length are those of the plan's ramp.

    Args:
        drawn: where pieces come from.
        plan: how many rows, how long.
        packed: whether documents share rows; a conversation never does.

    Raises:
        DataError: if a conversation is longer than a row.
    """
    while rows := _filled(drawn, *plan.at(drawn.tokens), packed):
        yield rows


def _filled(drawn: Feed, batch_size: int, length: int, packed: bool) -> list[Row]:
    rows, rooms = list[list[Piece]](), list[int]()
    while found := drawn.next():
        source, most = found
        whole, size = source.whole(), min(found[1], length)
        if whole and most > length:
            _refuse(source, length)
        place = _place(size, [] if whole else rooms)
        if place is None and len(rows) < batch_size:
            rows.append([])
            rooms.append(length)
            place = len(rows) - 1
        elif place is None and not whole and (room := max(rooms)) > max(1, length // 8):
            place, size = rooms.index(room), room  # the rest of the document begins the next step
        if place is None:
            break
        rows[place].append(source.take(size))
        rooms[place] = 0 if whole or not packed else rooms[place] - size
    return [Row(tuple(e for e, _ in pieces), tuple(x for _, x in pieces)) for pieces in rows]


def _place(size: int, rooms: Sequence[int]) -> int | None:
    """The fullest row in which there is room."""
    fitting = [i for i, room in enumerate(rooms) if room >= size]
    return min(fitting, key=rooms.__getitem__) if fitting else None


def _refuse(source: Source, length: int) -> None:
    example = source.open()[1]
    raise DataError(
        f"{example.source or example.key} has {source.left()} tokens, more than length={length}; "
        "raise the recipe's length or drop the row."
    )
