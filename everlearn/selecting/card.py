"""What a selection has kept and why, for people and for machines."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from everlearn.examples import Example

LEVELS = (0.0, 0.05, 0.5, 0.95, 1.0)
"""Quantiles that a card gives."""
QUOTE = 80
"""Characters of a document that a card quotes."""


@dataclass(frozen=True)
class Shown:
    """A document that a card quotes.

    Args:
        score: what the criterion says of it.
        kept: whether it was.
        source: where it stands.
        text: its beginning.
    """

    score: float
    kept: bool
    source: str
    text: str

    @classmethod
    def of(cls, score: float, kept: bool, example: Example) -> "Shown":
        """The document's beginning in one line."""
        return cls(score, kept, example.source or example.key, " ".join(example.text[: 2 * QUOTE].split())[:QUOTE])


@dataclass(frozen=True)
class Spread:
    """Quantiles of a criterion at LEVELS.

    Args:
        kept: of what was kept.
        left: of what passed the filters and was not kept; empty where there is none.
    """

    kept: tuple[float, ...]
    left: tuple[float, ...]


def spread(scores: Tensor, taken: Sequence[int]) -> Spread:
    """The quantiles of scores.

    Args:
        scores: (N,).
        taken: the numbers of those that were kept.
    """
    inside = torch.zeros(len(scores), dtype=torch.bool)
    inside[list(taken)] = True
    return Spread(_quantiles(scores[inside]), _quantiles(scores[~inside]))


def _quantiles(scores: Tensor) -> tuple[float, ...]:
    ordered = scores.sort().values
    return tuple(float(ordered[round(level * (len(ordered) - 1))]) for level in LEVELS) if len(ordered) else ()


@dataclass(frozen=True)
class Card:
    """What was kept of a set of documents, and why.

    Args:
        selection: as an expression; with the same documents and the same model it chooses the same ones.
        model: the reader's name; empty where nobody read.
        documents: that were read.
        size: of all, in bytes of UTF-8.
        left: documents that filters left out, by rule.
        passed: documents that passed the filters, and their bytes.
        kept: documents that were kept, and their bytes.
        spreads: of each criterion.
        shown: for each criterion some documents with the highest and the lowest scores.
    """

    selection: str
    model: str
    documents: int
    size: int
    left: Mapping[str, int]
    passed: tuple[int, int]
    kept: tuple[int, int]
    spreads: Mapping[str, Spread]
    shown: Mapping[str, tuple[Shown, ...]]

    def json(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=1) + "\n"

    def markdown(self) -> str:
        """As a page."""
        lines = ["# What was kept, and why", "", f"`{self.selection}`", ""]
        lines += [f"Read by the model {self.model}.", ""] if self.model else []
        lines += ["| | documents | bytes |", "|---|---|---|", f"| read | {self.documents} | {self.size} |"]
        lines += [f"| passed the filters | {self.passed[0]} | {self.passed[1]} |"]
        lines += [f"| kept | {self.kept[0]} | {self.kept[1]} |", ""]
        for rule, count in sorted(self.left.items(), key=lambda item: -item[1]):
            lines.append(f"- left out for `{rule}`: {count}")
        for name, found in self.spreads.items():
            lines += ["", f"## {name}", "", "| | least | 5 % | median | 95 % | greatest |", "|---" * 6 + "|"]
            for title, values in (("kept", found.kept), ("not kept", found.left)):
                lines += [f"| {title} | " + " | ".join(f"{value:.3f}" for value in values) + " |"] if values else []
            lines += [""]
            for one in self.shown[name]:
                lines.append(f"- {one.score:.3f}, {'kept' if one.kept else 'not kept'}, {one.source}: {one.text}")
        return "\n".join([*lines, ""])
