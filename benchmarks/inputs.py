"""What both sides are given: rows of exact lengths made of common words, and the questions of a public collection."""

import json
import random
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from everlearn import Example, LanguageModel, Message
from everlearn.metrics.suites import general_suite
from everlearn.metrics.text import ExactMatch
from everlearn.models.load import Tokenizer
from everlearn.objectives.next_token import NextToken
from everlearn.types import Experience

GENERAL = Path(__file__).resolve().parents[2] / "shared/data/general"
"""Questions with candidates, where they lie beside the repository; else the general suite serves."""

COMMON = """
time people way day man thing woman life child world school state family student group country problem hand
part place case week company system program question work government number night point home water room mother
area money story fact month lot right study book eye job word business issue side kind head house service
friend father power hour game line end member law car city community name president team minute idea body
information back parent face others level office door health person art war history party result change
morning reason research girl guy moment air teacher
"""


def conversation(model: LanguageModel, prompt: int, answer: int, draw: random.Random) -> Example:
    """A demonstration of exactly so many tokens: `prompt` before the answer begins, `answer` targets."""
    frame = model.encode(_turns("time", "time"))
    targets = sum(frame.supervised)
    asked = 1 + prompt - (len(frame.tokens) - targets)
    example = _turns(_text(model, asked, draw), _text(model, 1 + answer - targets, draw))
    made = model.encode(example)
    if (len(made.tokens), sum(made.supervised)) != (prompt + answer, answer):
        raise AssertionError(f"a row was to have {prompt} + {answer} tokens and has {len(made.tokens)}")
    return example


def rows(model: LanguageModel, sizes: Sequence[tuple[int, int]], seed: int) -> tuple[Example, ...]:
    """A demonstration for each (prompt, answer) size in tokens."""
    draw = random.Random(seed)
    return tuple(conversation(model, prompt, answer, draw) for prompt, answer in sizes)


def documents(model: LanguageModel, count: int, tokens: int, seed: int) -> tuple[Example, ...]:
    """Raw documents of exactly so many tokens each, the end token counted: a row that a document fills."""
    draw = random.Random(seed)
    made = tuple(Example(text=_text(model, tokens - 1, draw)) for _ in range(count))
    sizes = [len(model.encode(e).tokens) for e in made]
    if set(sizes) - {tokens}:
        raise AssertionError(f"a document was to have {tokens} tokens, and they have {sizes}")
    return made


def instruction_sizes(count: int, seed: int, mean: int = 127) -> list[tuple[int, int]]:
    """Sizes like those of instruction data: lengths spread from half to about twice the mean, a tenth of it answer."""
    draw = random.Random(seed)
    lengths = [round(mean * draw.triangular(0.5, 1.9, 0.6)) for _ in range(count)]
    while sum(lengths) != mean * count:
        lengths[draw.randrange(count)] += 1 if sum(lengths) < mean * count else -1
    return [(length - round(length / 10), round(length / 10)) for length in lengths]


def lesson(name: str, examples: Sequence[Example]) -> Experience:
    """An experience with these rows to learn from."""
    return Experience(name, tuple(examples), tuple(examples[:1]), NextToken(), ExactMatch())


def choice_items(count: int) -> tuple[list[Example], str]:
    """Multiple-choice items, and where they come from in words."""
    read = {file.stem: list(_choices(file)) for file in sorted(GENERAL.glob("*.jsonl"))}
    used = [name for name, items in read.items() if items]  # others have no candidates, or have them in another form
    if used:
        return random.Random(0).sample([i for name in used for i in read[name]], count), f"from {', '.join(used)}"
    suite = general_suite()
    items = [suite[i % len(suite)] for i in range(count)]
    return items, f"the general suite's {len(suite)} items, repeated"


def _choices(file: Path) -> Iterator[Example]:
    for line in file.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if len(row.get("choices", ())) > 1:
            turns = (Message("user", row["query"]), Message("assistant", row["choices"][row["gold"]]))
            yield Example(messages=turns, choices=tuple(row["choices"]))


def _turns(prompt: str, answer: str) -> Example:
    return Example(messages=(Message("user", prompt), Message("assistant", answer)))


def _text(model: LanguageModel, tokens: int, draw: random.Random) -> str:
    return " ".join(draw.choice(words(model.tokenizer)) for _ in range(tokens))


@cache
def words(tokenizer: Tokenizer) -> tuple[str, ...]:
    """The common words that are one token, at the start of a text and behind a space."""
    size = {word: len(tokenizer(f"{word} {word}").input_ids) for word in COMMON.split()}
    return tuple(word for word, tokens in size.items() if tokens == 2)
