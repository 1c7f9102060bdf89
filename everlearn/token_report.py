"""One self-contained HTML page about which tokens a selective objective learns from, each in colour.

The page asks for nothing from anywhere and runs no script; texts are escaped by the template engine.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from everlearn.config import show
from everlearn.errors import DataError
from everlearn.examples import Batch, Example, Plan
from everlearn.files import write_atomic
from everlearn.models.language_model import LanguageModel
from everlearn.objectives.next_token import NextToken
from everlearn.objectives.selective import Judged, Selective, live_losses
from everlearn.report import page_engine
from everlearn.types import Progress, Silent
from everlearn.wording import ABSENT

BEFORE = 4
"""Tokens that are read together with one, to see what text it adds."""
NAMES = {"live": "the model's loss", "reference": "the reference's loss", "entropy": "the reference's entropy"}


@dataclass(frozen=True)
class Token:
    """A token for people.

    Args:
        text: what it adds to the text before it.
        numbers: by name, in nats; none where it is no target.
        chosen: whether it was chosen.
        rank: from 1, by score, among the targets of its step; 0 where it is no target.
        of: how many targets the step has.
    """

    text: str
    numbers: dict[str, float]
    chosen: bool = False
    rank: int = 0
    of: int = 0

    @property
    def title(self) -> str:
        """What is said of it where a pointer rests."""
        if not self.rank:
            return "no target"
        said = ", ".join(f"{NAMES[name]} {number:.2f}" for name, number in self.numbers.items())
        if {"live", "reference"} <= self.numbers.keys():
            said += f", excess {self.numbers['live'] - self.numbers['reference']:.2f}"
        return f"{said}; rank {self.rank:,} of {self.of:,}, {'chosen' if self.chosen else 'left out'}"

    @property
    def depth(self) -> float:
        """How deep its colour is, in percent: by its rank."""
        return 100 - 80 * self.rank / self.of if self.rank else 0.0


@dataclass(frozen=True)
class Text:
    """A document, or a window of one: its example's key, where it was read, and its tokens."""

    key: str
    source: str
    tokens: tuple[Token, ...]

    @property
    def targets(self) -> tuple[Token, ...]:
        """The tokens that can be chosen."""
        return tuple(token for token in self.tokens if token.rank)


def chosen_tokens(
    objective: Selective,
    model: LanguageModel,
    examples: Sequence[Example],
    plan: Plan,
    progress: Progress | None = None,
) -> list[Text]:
    """Which tokens an objective chooses of examples, step by step as the plan cuts them, and by which numbers.

    Args:
        objective: chooses; documents get rows of their own here, whatever it packs.
        model: as it is now.
        examples: in the order of their steps.
        plan: how many rows a step has; its seed is not used.
        progress: told what part of the examples is done.

    Raises:
        DataError: if there is no target in them.
        ModelError: if the reference cannot be had.
    """
    found: list[Text] = []
    progress = progress or Silent()
    with closing(objective.opened(model)) as losses:
        for step in NextToken(packed=False).steps(model, examples, replace(plan, seed=None, start=0)):
            judged = objective.judge(model, losses, step.batches)
            numbers = dict(judged.numbers)
            if "live" not in numbers:
                numbers["live"] = torch.cat(live_losses(model, step.batches))
            if "reference" not in numbers:
                numbers["reference"] = torch.cat(losses.of(step.batches, "loss"))
            found += _texts(model, step.batches, replace(judged, numbers=numbers))
            progress.update("choosing tokens", round(1000 * step.progress), 1000)
    if not found:
        raise DataError("no example holds a token that could be learned; give documents of two tokens or more.")
    places = {example.key: place for place, example in enumerate(examples)}
    return sorted(found, key=lambda text: places[text.key])  # steps have the longest first


def write_tokens(texts: Sequence[Text], objective: Selective, model: str, path: Path) -> Path:
    """Write the page and return its path.

    Args:
        texts: what `chosen_tokens` found.
        objective: that chose.
        model: its name.
        path: of the HTML file; a file there is replaced.
    """
    engine = page_engine()
    targets = [token for text in texts for token in text.targets]
    content: dict[str, Any] = {
        "texts": texts,
        "groups": _groups(targets),
        "names": NAMES,
        "ABSENT": ABSENT,
        "model": model,
    }
    content |= {"objective": objective, "expression": show(objective), "count": len(targets)}
    content |= {"share": sum(token.chosen for token in targets) / len(targets)}
    write_atomic(path, engine.get_template("tokens.html").render(content))
    return path


def _groups(targets: Sequence[Token]) -> list[tuple[str, int, dict[str, float]]]:
    """(name, tokens, mean of each number) of chosen tokens, of the others, and of all."""
    named: list[tuple[str, list[Token]]] = [
        ("chosen", [token for token in targets if token.chosen]),
        ("left out", [token for token in targets if not token.chosen]),
        ("all", list(targets)),
    ]
    return [(name, len(tokens), _means(tokens)) for name, tokens in named]


def _means(tokens: Sequence[Token]) -> dict[str, float]:
    names = tokens[0].numbers if tokens else {}
    return {name: sum(token.numbers[name] for token in tokens) / len(tokens) for name in names}


def _texts(model: LanguageModel, batches: Sequence[Batch], judged: Judged) -> Iterator[Text]:
    """The rows of a step, each a document or a window of one."""
    order = judged.scores.sort(descending=True, stable=True).indices
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(1, len(order) + 1)
    at = 0
    for batch in batches:
        for row, example in enumerate(batch.examples):
            count = int(batch.supervised[row].sum())
            part = slice(at, at + count)
            yield Text(
                example.key, example.source or example.key, tuple(_tokens(model, batch, row, judged, ranks, part))
            )
            at += count


def _tokens(
    model: LanguageModel, batch: Batch, row: int, judged: Judged, ranks: Tensor, part: slice
) -> Iterator[Token]:
    length = int((batch.segments[row] > 0).sum())
    words = pieces(model.tokenizer, batch.tokens[row, :length].tolist())
    places = iter(range(part.start, part.stop))
    for word, target in zip(words, batch.supervised[row, :length].tolist(), strict=True):
        if not target:
            yield Token(word, {})
            continue
        i = next(places)
        numbers = {name: float(values[i]) for name, values in judged.numbers.items()}
        yield Token(word, numbers, bool(judged.chosen[i]), int(ranks[i]), len(ranks))


def pieces(tokenizer: Any, tokens: Sequence[int]) -> list[str]:
    """What each token adds to the text; a character of several tokens stands at its last one."""
    found = []
    for i in range(len(tokens)):
        start = max(0, i - BEFORE)
        before, after = (tokenizer.decode(tokens[start:end]).rstrip("\ufffd") for end in (i, i + 1))
        found.append(after[len(before) :])
    return found
