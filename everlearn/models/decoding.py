"""The decoding loop: rows join a batch, get a token a step, and leave when they are done.

Prompts are read a few at a time, each once for all its rows. A row takes a slot, and the slot of a row that is done is
taken by one that waits, so that the batch stays full to the end. What is chosen, greedily or by chance, is said by a
function of states and rows; a row's choice never depends on its neighbours.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from torch import Tensor
from transformers import Cache

from everlearn.models.reading import Reader, Tokens, agree
from everlearn.models.slots import Slots

READ = 1024
"""Tokens of prompts read in one pass on a processor: with more of them, activations leave its cache (1.52 s for 2048
tokens of the embedded model at once, 1.29 s in two passes)."""


@dataclass(frozen=True)
class Ask:
    """A prompt to continue.

    Args:
        prompt: tokens, one at least.
        hint: tokens that greedy decoding is expected to give, fewer than the limit; they save time where it does so,
            and change nothing.
        seeds: one for each completion.
        limit: most tokens of a completion, the end token counted; None takes what bounds all.
        task: the experience that the model is told the prompt belongs to; empty where it is not told.
        weights: (K,) of the adapters that answer, where they are routed.
    """

    prompt: Tokens
    hint: Tokens = ()
    seeds: tuple[int, ...] = (0,)
    limit: int | None = None
    task: str = ""
    weights: Tensor | None = field(default=None, compare=False)


@dataclass
class Row:
    """A completion in the making.

    Args:
        ask: what it answers.
        seed: of its random choices.
        tokens: so far.
        logprobs: of the tokens, where they are asked for.
    """

    ask: Ask
    seed: int
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


Choose = Callable[[Tensor, Sequence[Row]], tuple[list[int], list[float]]]
"""The next token of each row by the states after its last, and its log-probability or nothing."""

Told = Callable[[int], None]
"""Told how many rows more are done."""


@dataclass(frozen=True)
class Bounds:
    """Where completions and batches end.

    Args:
        ends: tokens that end a completion.
        limit: most tokens of any completion, the end token counted.
        batch_tokens: most tokens in one batch, completions counted; one row is taken at least.
    """

    ends: Tokens
    limit: int
    batch_tokens: int

    def most(self, ask: Ask) -> int:
        """Tokens that a completion may have."""
        return self.limit if ask.limit is None else min(self.limit, ask.limit)

    def width(self, ask: Ask) -> int:
        """Tokens of a prompt and its longest completion."""
        return len(ask.prompt) + self.most(ask)

    def over(self, row: Row) -> bool:
        """Whether no token may follow."""
        return len(row.tokens) >= self.most(row.ask) or (bool(row.tokens) and row.tokens[-1] in self.ends)


@dataclass
class _Read:
    """Rows that wait for a slot, and the cache that their prompts were read into, each with its place there."""

    cache: Cache
    rows: deque[tuple[int, Row]]


@dataclass
class Decoder:
    """Continues prompts.

    Args:
        reader: who reads them.
        choose: what decides.
        bounds: when to stop.
    """

    reader: Reader
    choose: Choose
    bounds: Bounds

    def run(self, asks: Sequence[Ask], told: Told) -> list[list[Row]]:
        """The rows of each ask, in order."""
        rows = [[Row(ask, seed) for seed in ask.seeds] for ask in asks]
        for band in self._bands(asks):
            self._fill([rows[i] for i in band], told)
        return rows

    def _bands(self, asks: Sequence[Ask]) -> Iterator[list[int]]:
        """Asks whose slots are alike in width, the widest first: a slot is at most twice as wide as its row needs."""
        band: list[int] = []
        left = sum(len(ask.seeds) for ask in asks)
        for i in sorted(range(len(asks)), key=lambda i: (-self.bounds.width(asks[i]), -len(asks[i].prompt), i)):
            widest = self.bounds.width(asks[(band or [i])[0]])
            if widest > 2 * self.bounds.width(asks[i]) and widest * left > self.bounds.batch_tokens:
                yield band
                left -= sum(len(asks[j].seeds) for j in band)
                band = []
            band.append(i)
        if band:
            yield band

    def _fill(self, groups: Sequence[list[Row]], told: Told) -> None:
        """Decode groups of rows, each of one prompt, the widest first."""
        width = self.bounds.width(groups[0][0].ask)
        capacity = min(max(self.bounds.batch_tokens // width, 1), sum(map(len, groups)))
        unread, read, seated, slots = deque(groups), _Read(Cache([]), deque()), list[Row](), None
        while unread or read.rows or seated:
            free = capacity - len(seated)
            if not seated or ((unread or read.rows) and 4 * free >= capacity):  # a pass for one row alone would be slow
                if not read.rows:
                    read = self._read(unread, free, told)
                if slots is None and read.rows:
                    slots = Slots(read.cache, capacity, width)
                taken = [read.rows.popleft() for _ in range(min(free, len(read.rows)))]
                if slots is not None and taken:
                    slots.seat(read.cache, [place for place, _ in taken], len(seated))
                    seated += [row for _, row in taken]
            elif slots is not None:
                seated = self._step(slots, seated, told)

    def _read(self, unread: deque[list[Row]], free: int, told: Told) -> _Read:
        """Read prompts for the free slots, with hints; rows that are not over by that wait."""
        most = min(self.bounds.batch_tokens, READ) if self.reader.device.type == "cpu" else self.bounds.batch_tokens
        groups, widest = list[list[Row]](), 0
        while unread and sum(map(len, groups)) < free:
            ask = unread[0][0].ask
            widest = max(widest, len(ask.prompt) + len(ask.hint))
            if groups and (len(groups) + 1) * widest > most:
                break
            groups.append(unread.popleft())
        cache = self._begin(groups)
        rows = deque((g, row) for g, group in enumerate(groups) for row in group if not self.bounds.over(row))
        told(sum(map(len, groups)) - len(rows))
        return _Read(cache, rows)

    def _begin(self, groups: Sequence[list[Row]]) -> Cache:
        """Read the groups' prompts and hints, each once, and give each row its first tokens."""
        asks = [group[0].ask for group in groups]
        spans = [range(len(ask.prompt) - 1, len(ask.prompt) + len(ask.hint)) for ask in asks]
        where = [(place, column) for place, span in enumerate(spans) for column in span]
        with self.reader.weighing([ask.weights for ask in asks]):
            cache, states = self.reader.read([(*ask.prompt, *ask.hint) for ask in asks], where)
        first = [0, *accumulate(map(len, spans))]
        pairs = [(i, row) for g, group in enumerate(groups) for row in group for i in range(first[g], first[g + 1])]
        chosen, logprobs = self.choose(states[[i for i, _ in pairs]], [row for _, row in pairs])
        at = 0
        for row in (row for group in groups for row in group):
            here = slice(at, at + len(row.ask.hint) + 1)
            self._accept(row, chosen[here], logprobs[here])
            at = here.stop
        return cache

    def _accept(self, row: Row, chosen: Tokens, logprobs: Sequence[float]) -> None:
        """Take the tokens chosen after the prompt and after each token of the hint, up to the first that differs."""
        for token in chosen[: agree(row.ask.hint, chosen) + 1]:
            if not self.bounds.over(row):
                row.tokens.append(token)
        row.logprobs += logprobs[: len(row.tokens)]

    def _step(self, slots: Slots, seated: Sequence[Row], told: Told) -> list[Row]:
        """A token more for each seated row; those that stay, by slot."""
        columns = [len(row.ask.prompt) + len(row.tokens) - 1 for row in seated]
        with self.reader.weighing([row.ask.weights for row in seated]):
            states = self.reader.step(slots, [row.tokens[-1] for row in seated], columns)
        chosen, logprobs = self.choose(states, seated)
        for place, row in enumerate(seated):
            row.tokens.append(chosen[place])
            row.logprobs += logprobs[place : place + 1]
        alive = [not self.bounds.over(row) for row in seated]
        told(len(seated) - sum(alive))
        return [seated[place] for place in slots.keep(alive)]
