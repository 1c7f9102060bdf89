"""An experience as its audit sees it: at most so many rows of each part, each with the question it asks."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from everlearn.data.overlap import Index, Sketch, sketch, words
from everlearn.examples import Example
from everlearn.randomness import permutation
from everlearn.types import Experience

PARTS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Part:
    """Some rows of one part of an experience.

    Args:
        name: "train", "validation" or "test".
        examples: the rows looked at.
        total: the rows there are.
        asked: for each row, the number of its question among the distinct ones of the experience.
        answers: for each row, its answer in words.
    """

    name: str
    examples: Sequence[Example]
    total: int
    asked: Sequence[int]
    answers: Sequence[str]

    @cached_property
    def rows(self) -> list[tuple[int, str]]:
        """Question and answer of each row."""
        return list(zip(self.asked, self.answers, strict=True))

    @cached_property
    def first(self) -> dict[int, int]:
        """The first row that asks each question."""
        return {asked: row for row, asked in reversed(list(enumerate(self.asked)))}

    def source(self, row: int) -> str:
        """Where a row was read, or where it stands."""
        return self.examples[row].source or f"{self.name}[{row}]"


@dataclass(frozen=True, eq=False)
class Look:
    """One experience, looked at.

    Args:
        experience: it.
        parts: by name; a part without rows is there, and empty.
        questions: the distinct questions in words, those of train first.
    """

    experience: Experience
    parts: Mapping[str, Part]
    questions: Sequence[str]

    @property
    def name(self) -> str:
        """The experience's name."""
        return self.experience.name

    @cached_property
    def documents(self) -> bool:
        """Whether its rows are raw text."""
        return all(example.text for part in self.parts.values() for example in part.examples)

    @property
    def unit(self) -> str:
        """What its rows are told apart by, for people."""
        return "documents" if self.documents else "prompts"

    @cached_property
    def sketch(self) -> Sketch:
        """What the questions look like."""
        return sketch([question.split(" ") for question in self.questions])

    @cached_property
    def trained(self) -> Index:
        """The questions of train, to be searched."""
        return Index(self.sketch, set(self.parts["train"].asked))

    @cached_property
    def number(self) -> dict[str, int]:
        """The number of each question."""
        return {question: number for number, question in enumerate(self.questions)}

    @cached_property
    def content(self) -> set[tuple[str, str]]:
        """Question and answer of every row of every part, in words."""
        return {(self.questions[asked], answer) for part in self.parts.values() for asked, answer in part.rows}


def look(experience: Experience, most: int) -> Look:
    """Read at most `most` rows of each part, drawn by chance where there are more, the same ones every time."""
    numbers: dict[str, int] = {}
    parts = {}
    examples: Sequence[Example]
    for name, examples in zip(PARTS, (experience.train, experience.validation, experience.test), strict=True):
        rows: Iterable[int] = range(len(examples))
        if len(examples) > most:
            rows = sorted(permutation(len(examples), "audit", name)[:most])
        read = [examples[row] for row in rows]
        asked = [numbers.setdefault(" ".join(words(_question(e))), len(numbers)) for e in read]
        parts[name] = Part(name, read, len(examples), asked, [" ".join(words(e.response)) for e in read])
    return Look(experience, parts, tuple(numbers))


def _question(example: Example) -> str:
    """What tells a row from another: the prompt with its candidates; all of it where there is no prompt."""
    turns = [m.content for m in example.prompt]
    return "\n".join([*turns, *example.choices]) if turns else example.text or example.response
