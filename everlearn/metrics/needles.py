"""Needles in a haystack: a grid of lengths and depths that shows how much of its context a model can use.

A needle is a sentence with a code in it (G. Kamradt 2023); a question after the haystack asks for it. With distractors,
codes of other things stand there too, and with several needles all are asked for at once (RULER, arXiv:2404.06654). A
prompt has exactly so many tokens as its cell says, the chat template and the question counted. Haystacks are made of
any sentences, or of our own, made up by chance; nothing is fetched.
"""

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from statistics import fmean

from everlearn.data.render import render_prompt
from everlearn.errors import ConfigError, DataError
from everlearn.examples import Example, Message
from everlearn.models.load import Tokenizer
from everlearn.randomness import seed_of
from everlearn.types import Outcome, Question, Reply

LOOKS = "amber,azure,black,brown,coral,green,ivory,olive,plain,quiet,round,rusty,silver,small,tall,violet"
THINGS = "anchor,basket,bridge,candle,clock,drum,engine,ferry,garden,harp,kettle,ladder,mirror,tower,wagon"
SUBJECTS = "the baker,the old sailor,my neighbour,a young teacher,the night nurse,our cousin,the painter,a farmer"
DEEDS = "walks to,looks at,talks about,comes back from,thinks of,has seen,draws,remembers,asks about,waits near"
PLACES = "the market,the river,the station,a quiet street,the school,the long wall,the harbour,the fields,the mill"
TIMES = "in the morning,after lunch,on cold days,every week,before it rains,at night,when the bell rings,in spring"
MOST = 16
"""Codes in one haystack: its things are of one kind, and differ by their looks."""
FILLERS = (" so", " too", " a", ".", "s", ",", "-", "!")
"""Ends that add a token or two, for prompts that lack so many."""


@dataclass(frozen=True)
class Needles:
    """A grid of needles in haystacks.

    Args:
        lengths: tokens of a whole prompt, each exactly.
        depths: where the needle stands in its haystack, from 0, the beginning, to 1, the end; to a sentence.
        asked: needles in each haystack that are asked for together; the others stand in equal distances from the first.
        distractors: codes of other things beside them, of which none is asked for, at any place.
        repeats: items of each cell.
        seed: decides needles, places and haystacks.
    """

    lengths: tuple[int, ...]
    depths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    asked: int = 1
    distractors: int = 0
    repeats: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse a grid without cells, depths outside the haystack, and more needles than there are things."""
        if not self.lengths or not self.depths or not all(0 <= depth <= 1 for depth in self.depths):
            raise ConfigError(f"{self}: give lengths in tokens, and depths in [0, 1].")
        if min(self.asked, self.repeats) < 1 or self.distractors < 0 or self.asked + self.distractors > MOST:
            raise ConfigError(f"{self}: asked and repeats are 1 or more, and at most {MOST} codes in one haystack.")

    def items(self, tokenizer: Tokenizer, haystack: Sequence[str] = (), origin: str = "needles") -> tuple[Example, ...]:
        """The items, by length, then depth: a prompt, and the codes that were asked for in sentences.

        Args:
            tokenizer: of the model that is asked.
            haystack: sentences, taken in their order from one drawn by chance, and from the first again; without any,
                ours.
            origin: the experience that they belong to.

        Raises:
            DataError: if a length has no room for what is asked, or cannot be met exactly.
        """
        cells = [(n, d, i) for n in self.lengths for d in self.depths for i in range(self.repeats)]
        return tuple(self._item(tokenizer, haystack, origin, cell) for cell in cells)

    def _item(
        self, tokenizer: Tokenizer, haystack: Sequence[str], origin: str, cell: tuple[int, float, int]
    ) -> Example:
        length, depth, _ = cell
        rng = random.Random(seed_of(self.seed, "needles", *map(str, cell)))
        codes = _codes(rng, self.asked + self.distractors)
        named = list(codes)[: self.asked]
        places = [(depth + i / self.asked) % 1 if i else depth for i in range(self.asked)]
        places += [rng.random() for _ in range(self.distractors)]
        needles = [(place, _said(thing, code)) for place, (thing, code) in zip(places, codes.items(), strict=True)]
        straw = _turned(haystack, rng) if haystack else _sentences(rng)
        sentences = list(islice(straw, length))  # each is a token at least

        def prompt(count: int, end: str) -> str:
            straw = [*sentences[: count - 1], sentences[count - 1] + end] if count else [end.strip()] if end else []
            return f"{_hidden(straw, needles)}\n\n{_question(named)}"

        def size(text: str) -> int:
            return len(render_prompt(tokenizer, (Message("user", text),)))

        where = f"{origin}:{length}/{depth:g}/{cell[2]}"
        text = _of_length(length, prompt, size, sentences, where)
        answer = " ".join(_said(thing, codes[thing]) for thing in named)
        about = {"length": length, "depth": depth, "answers": [codes[thing] for thing in named]}
        messages = (Message("user", text), Message("assistant", answer))
        return Example(messages=messages, metadata=about, source=where, origin=origin)


@dataclass(frozen=True)
class Found:
    """1 if the reply holds every answer that its item's `metadata["answers"]` names, to the letter, as words.

    Without that, the target is the one answer.

    Args:
        partial: the fraction of the answers that it holds instead.
    """

    partial: bool = False

    @property
    def question(self) -> Question:
        """The model generates."""
        return "generate"

    def score(self, example: Example, reply: Reply) -> float:
        """In [0, 1]."""
        answers = example.metadata.get("answers") or [example.response.strip()]
        found = [bool(re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", reply.text)) for answer in answers]
        return fmean(found) if self.partial else float(all(found))


@dataclass(frozen=True)
class Grid:
    """Scores of a grid of needles.

    Args:
        lengths: in tokens, from the shortest.
        depths: from the beginning of the haystack.
        scores: for each depth, by length, the mean over the cell's items; None where there are none.
    """

    lengths: tuple[int, ...]
    depths: tuple[float, ...]
    scores: tuple[tuple[float | None, ...], ...]

    @property
    def perfect(self) -> int:
        """The longest length up to which every needle was found; 0 where not even the shortest is perfect."""
        whole = [all(row[i] in (1.0, None) for row in self.scores) for i in range(len(self.lengths))]
        count = whole.index(False) if False in whole else len(whole)
        return self.lengths[count - 1] if count else 0


def grid(examples: Sequence[Example], outcomes: Sequence[Outcome]) -> Grid | None:
    """The scores as a grid; None where the examples are no needles, or nothing was measured.

    Args:
        examples: the test items, more of them perhaps.
        outcomes: by key.
    """
    about = {e.key: e.metadata for e in examples if {"length", "depth"} <= e.metadata.keys()}
    cells: dict[tuple[float, int], list[float]] = {}
    for outcome in (o for o in outcomes if o.key in about):
        place = about[outcome.key]
        cells.setdefault((float(place["depth"]), int(place["length"])), []).append(outcome.score)
    if not cells:
        return None
    depths, lengths = tuple(sorted({d for d, _ in cells})), tuple(sorted({n for _, n in cells}))
    scores = tuple(tuple(fmean(cells[d, n]) if (d, n) in cells else None for n in lengths) for d in depths)
    return Grid(lengths, depths, scores)


def split_sentences(text: str) -> list[str]:
    """A text's sentences, for a haystack: at full stops and at the ends of paragraphs."""
    found = re.split(r"(?<=[.!?])\s+|\n\s*\n", text)
    return [" ".join(sentence.split()) for sentence in found if sentence.strip()]


def _codes(rng: random.Random, count: int) -> dict[str, str]:
    """Codes by the things that they belong to, which differ by their looks alone."""
    thing, numbers = rng.choice(THINGS.split(",")), rng.sample(range(1000, 10000), count)
    return {f"{look} {thing}": str(n) for look, n in zip(rng.sample(LOOKS.split(","), count), numbers, strict=True)}


def _said(thing: str, code: str) -> str:
    return f"The code of the {thing} is {code}."


def _question(things: Sequence[str]) -> str:
    if len(things) == 1:
        return f"What is the code of the {things[0]}?"
    return f"What are the codes of the {', the '.join(things[:-1])} and the {things[-1]}?"


def _hidden(straw: Sequence[str], needles: Sequence[tuple[float, str]]) -> str:
    """The haystack with each needle before the sentence at its depth."""
    before: dict[int, list[str]] = {}
    for depth, needle in needles:
        before.setdefault(round(depth * len(straw)), []).append(needle)
    pieces = [piece for i in range(len(straw) + 1) for piece in (*before.get(i, []), *straw[i : i + 1])]
    return " ".join(pieces)


def _of_length(
    length: int,
    prompt: Callable[[int, str], str],
    size: Callable[[str], int],
    sentences: Sequence[str],
    where: str,
) -> str:
    """A prompt of exactly so many tokens: whole sentences, the beginning of another one, and fillers.

    Raises:
        DataError: if there is none.
    """
    if (least := size(prompt(0, ""))) > length:
        raise DataError(f"{where}: the question and its needles alone take {least} tokens; ask for more than {length}.")
    low, high = 0, 1
    while high < len(sentences) and size(prompt(high, "")) <= length:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(prompt(middle, "")) <= length else (low, middle)

    def sized(count: int, end: str) -> int:
        return size(prompt(count, end))

    for count in range(low, max(low - 3, -1), -1):
        end = _ending(length, partial(sized, count), sentences[count].split())
        if end is not None:
            return prompt(count, end)
    raise DataError(f"{where}: {length} tokens cannot be met exactly; ask for a few more or fewer.")


def _ending(length: int, size: Callable[[str], int], words: Sequence[str]) -> str | None:
    """What follows whole sentences, so that a prompt has its length; None where nothing does."""
    end, more = "", [f" {word}" for word in words]
    while (now := size(end)) < length:
        longer = [end + piece for piece in (*more, *FILLERS)]
        fits = next((i for i, one in enumerate(longer) if now < size(one) <= length), None)
        if fits is None:
            return None
        end, more = longer[fits], more[fits + 1 :]
    return end


def _turned(haystack: Sequence[str], rng: random.Random) -> Iterator[str]:
    """The sentences from one drawn by chance on, round and round."""
    start = rng.randrange(len(haystack))
    while True:
        yield haystack[start % len(haystack)]
        start += 1


def _sentences(rng: random.Random) -> Iterator[str]:
    """Sentences of our own about nothing much; 5760 of them differ."""
    parts = [part.split(",") for part in (SUBJECTS, DEEDS, PLACES, TIMES)]
    while True:
        yield " ".join(rng.choice(part) for part in parts).capitalize() + "."
