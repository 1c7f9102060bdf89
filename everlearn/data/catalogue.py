"""Items that become tokens: a catalogue, and how like its items are to each other.

A catalogue is a JSONL file with an item a line:

    {"token": "<item_17>", "description": "a red bicycle", "metadata": {"genre": ["sport"], "brand": "x"},
     "joins": "june"}

Each but the token may be missing. An item joins the vocabulary with the experience that `joins` names, or with the
first one where it names none.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from everlearn.errors import DataError
from everlearn.files import read_jsonl

WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Item:
    """Something that becomes one token.

    Args:
        token: as it stands in texts; no white space.
        description: in words; what a warm start by pieces is made of. Empty where there is none.
        metadata: values, or lists of values, by name: texts and numbers.
        joins: the experience that it joins the vocabulary with; empty stands for the first.
    """

    token: str
    description: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    joins: str = ""

    def __post_init__(self) -> None:
        """Refuse a token that texts cannot hold as one piece.

        Raises:
            DataError: if it is empty or has white space.
        """
        if not self.token or any(c.isspace() for c in self.token):
            raise DataError(f"the token {self.token!r} is empty or has white space; write it as <item_17>.")

    @property
    def features(self) -> frozenset[str]:
        """What it is compared by: pairs of its metadata, or the words of its description where it has none."""
        if self.metadata:
            pairs = ((n, v if isinstance(v, list | tuple) else [v]) for n, v in self.metadata.items())
            return frozenset(f"{name}={value}" for name, values in pairs for value in values)
        return frozenset(WORD.findall(self.description.lower()))

    def row(self) -> dict[str, Any]:
        """As plain data; the inverse of `Item(**row)`."""
        plain = {n: list(v) if isinstance(v, list | tuple) else v for n, v in self.metadata.items()}
        return {"token": self.token, "description": self.description, "metadata": plain, "joins": self.joins}


def read_catalogue(path: Path) -> list[Item]:
    """The items of a JSONL file.

    Raises:
        DataError: naming the line, if it is no item, or its token has stood before.
    """
    found: dict[str, Item] = {}
    fields = {"token": str, "description": str, "metadata": dict, "joins": str}
    for number, row in read_jsonl(path):
        odd = isinstance(row, dict) and [n for n, v in row.items() if n not in fields or not isinstance(v, fields[n])]
        if not isinstance(row, dict) or odd or "token" not in row:
            raise DataError(
                f"{path}, line {number}: no item ({odd or 'no token'}); give token, description, metadata, joins."
            )
        if row["token"] in found:
            raise DataError(f"{path}, line {number}: the token {row['token']} has stood before; each item has its own.")
        found[row["token"]] = Item(**row)
    return list(found.values())


def likeness(items: Sequence[Item], others: Sequence[Item]) -> Tensor:
    """(K, N) how like items are to others: features that both have among those that one has (Jaccard 1912)."""
    names = {feature: i for i, feature in enumerate(sorted({f for item in (*items, *others) for f in item.features}))}
    one, other = (_present(group, names) for group in (items, others))
    both = one @ other.T
    either = one.sum(1)[:, None] + other.sum(1)[None] - both
    return both / either.clamp(min=1)


def _present(items: Sequence[Item], names: Mapping[str, int]) -> Tensor:
    found = torch.zeros(len(items), max(1, len(names)))
    for place, item in enumerate(items):
        found[place, [names[feature] for feature in item.features]] = 1
    return found
