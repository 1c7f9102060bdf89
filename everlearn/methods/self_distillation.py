"""Demonstrations in the model's own words: what it learns from is then nearer to what it would say (SDFT, 2024)."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from everlearn.data.sequences import each
from everlearn.errors import ConfigError
from everlearn.examples import Example, Message
from everlearn.method import Context, Method
from everlearn.models.language_model import LanguageModel
from everlearn.models.sampling import Completion, Sampling, sample
from everlearn.randomness import seed_of
from everlearn.rewards.extraction import Extractor
from everlearn.rewards.reward import right_answer
from everlearn.rewards.votes import Equality, SameText
from everlearn.types import Memory

TEMPLATE = """Below are an instruction and a reference answer. Using the reference answer as a guide, write your own \
response to the instruction.

### Instruction:
{question}

### Reference answer:
{demonstration}

### Response:"""
META = ("reference answer", "reference response", "the instruction", "my own response")
TOGETHER = 256
"""Demonstrations that are rewritten at a time."""

Fate = Literal["rewritten", "unfinished", "empty", "meta", "changed", "long"]
FATES: tuple[Fate, ...] = ("rewritten", "unfinished", "empty", "meta", "changed", "long")


@dataclass(frozen=True)
class SDFT(Method):
    """Learn from demonstrations as the model itself would have put them (self-distillation, arXiv:2402.13669).

    Before an experience, the model as it is rewrites the answer of each demonstration, with that answer before it. A
    rewrite takes its answer's place if it ended by itself, says nothing about having been given an answer, fits into a
    row, and, where `extract` finds a final answer, holds the same one; else the demonstration stays as it is. Documents
    stay.

    Differs from the paper, whose seed model is the one that nothing was learned from: here it is the last version,
    which at the first experience is the same. The words of the template and of META are a reconstruction. Another
    paper of the name SDFT (arXiv:2601.19897) is `Distillation("ema", shown=True)`.

    Extra compute: one completion of each demonstration before an experience. Memory: six numbers for each experience;
    while one is learned, the text of its rewrites.

    Args:
        extract: finds the final answer, such as `Boxed()`; None for demonstrations that have none.
        equality: which final answers are the same.
        meta: phrases that give a rewrite away, in any case.
        temperature: of writing; 0 is greedy.
        limit: most tokens of a rewrite.
        template: with {question}, the last turn before the answer, and {demonstration}, the answer.
    """

    keeps: ClassVar[str] = "counts"
    computes: ClassVar[str] = "a completion of each row, at the beginning"

    extract: Extractor | None = None
    equality: Equality = field(default_factory=SameText)
    meta: tuple[str, ...] = META
    temperature: float = 1.0
    limit: int = 512
    template: str = TEMPLATE

    def __post_init__(self) -> None:
        """Refuse a template without its marks, and samplings that there are not."""
        if not all(mark in self.template for mark in ("{question}", "{demonstration}")):
            raise ConfigError(f"template={self.template!r} has to hold {{question}} and {{demonstration}}.")
        Sampling(self.temperature, self.limit)

    def init(self, model: LanguageModel) -> Memory:
        """Nothing rewritten."""
        return {"written": {}, "counts": {}}

    def begin(self, memory: Memory, ctx: Context) -> Memory:
        """The experience's demonstrations in the words of the model as it is."""
        written, found = dict[str, str](), Counter[Fate]()
        for example, completion in self._rewrites(ctx):
            fate, new = self.fate(example, completion), _answered(example, completion.text.strip())
            if fate == "rewritten" and len(ctx.model.encode(new).tokens) > ctx.plan.length:
                fate = "long"
            found[fate] += 1
            if fate == "rewritten":
                written[example.key] = new.response
        counts: dict[str, int] = {fate: found[fate] for fate in FATES}
        ctx.note({**counts, "rewritten rate": counts["rewritten"] / max(found.total(), 1)})
        return {"written": written, "counts": memory["counts"] | {ctx.experience.name: counts}}

    def data(self, memory: Memory, examples: Sequence[Example], ctx: Context) -> Sequence[Example]:
        """Each example with its rewrite, where it has one that was kept."""
        written: Mapping[str, str] = memory["written"]
        return tuple(_answered(e, written[e.key]) if e.key in written else e for e in examples) if written else examples

    def end(self, memory: Memory, ctx: Context) -> Memory:
        """The rewrites are gone."""
        return memory | {"written": {}}

    def fate(self, example: Example, completion: Completion) -> Fate:
        """What becomes of a rewrite, whatever its length."""
        if not completion.finished:
            return "unfinished"
        text = completion.text.strip()
        if not text:
            return "empty"
        if any(phrase.lower() in text.lower() for phrase in self.meta):
            return "meta"
        right = self.extract.find(example.response) if self.extract else None
        if self.extract is None or right is None:
            return "rewritten"
        answer = self.extract.find(text)
        return "rewritten" if answer is not None and self.equality.same(answer, right) else "changed"

    def _rewrites(self, ctx: Context) -> Iterator[tuple[Example, Completion]]:
        """Each different demonstration with a completion of its request."""
        train, seen = ctx.experience.train, set[str]()
        sampling = Sampling(self.temperature, self.limit, seed=seed_of(ctx.seed, ctx.seen, "sdft", *ctx.place))
        for start in range(0, len(train), TOGETHER):
            some = {e.key: e for e in each(train, range(start, min(start + TOGETHER, len(train))))}
            asked = [e for key, e in some.items() if key not in seen and e.prompt and right_answer(e) is not None]
            seen |= some.keys()
            prompts = [ctx.model.encode_prompt(self.request(e)) for e in asked]
            drawn = sample(ctx.model, prompts, sampling) if prompts else []
            yield from ((e, group[0]) for e, group in zip(asked, drawn, strict=True))

    def request(self, example: Example) -> tuple[Message, ...]:
        """The turns that ask for a rewrite."""
        *before, asked = example.prompt
        words = {"{question}": asked.content, "{demonstration}": example.response}
        parts = re.split(r"(\{question\}|\{demonstration\})", self.template)  # what is filled in holds no marks
        return (*before, Message(asked.role, "".join(words.get(part, part) for part in parts)))


def _answered(example: Example, text: str) -> Example:
    return replace(example, messages=(*example.prompt, Message("assistant", text)))
