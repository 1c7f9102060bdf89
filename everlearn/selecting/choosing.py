"""Documents of many that are worth learning from: filtered, scored, chosen, and a card that says what was kept and why.

    selection = Selection(by=(Novelty(), WordEntropy()), share=0.1)
    chosen = selection.choose(read("crawl/").examples, DocumentReader(model))
    chosen.documents, chosen.card

Texts stay in their files: what is in memory are eight bytes for each document and criterion, and for the search for
near duplicates eight for each of its words. That search reads the documents three times more.
"""

import json
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal, get_args, overload

import numpy as np
import torch
from torch import Tensor

from everlearn.config import show
from everlearn.data.overlap import Index, sketch, words
from everlearn.data.sequences import each, select
from everlearn.errors import ConfigError, DataError
from everlearn.examples import Example
from everlearn.files import atomic_file, write_atomic
from everlearn.randomness import generator
from everlearn.selecting.card import Card, Shown, spread
from everlearn.selecting.criteria import Criterion, DocumentReader
from everlearn.selecting.quality import Quality
from everlearn.types import Progress, Silent

How = Literal["hard", "soft", "gumbel"]
QUOTED = 3
"""Documents that a card quotes from each end."""


@dataclass(frozen=True)
class Chosen:
    """What was chosen.

    Args:
        documents: in the order in which they were given; lazy where those were.
        rows: the number of each, from 0, among those that were given.
        card: what was kept, what was not, and why.
    """

    documents: Sequence[Example]
    rows: tuple[int, ...]
    card: Card

    def write(self, path: Path, progress: Progress | None = None) -> Path:
        """Write the documents as JSONL, each with its source, and the card beside them.

        Args:
            path: the file; the card has its name, with .card.md and .card.json in the place of its ending.
            progress: who wants to know how far it is.

        Returns:
            The card's page.
        """
        progress = progress or Silent()
        with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            for number, example in enumerate(self.documents):
                row = {"text": example.text, "metadata": {**example.metadata, "source": example.source}}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                progress.update("writing", number + 1, len(self.documents))
        write_atomic(path.with_suffix(".card.json"), self.card.json())
        write_atomic(page := path.with_suffix(".card.md"), self.card.markdown())
        return page


@dataclass(frozen=True)
class Selection:
    """Which documents are kept.

    Filters come first. Of what passes them the criteria choose, until `share` of its bytes is reached. Each criterion
    orders the documents; a document's rank in [0, 1] is the mean of its ranks by all of them (DACP, arXiv:2311.08545,
    2.2, which adds quantiles).

    Args:
        by: criteria; without any, whatever passes the filters is kept.
        share: of the bytes that pass the filters, in (0, 1].
        how: "hard" takes the best; "soft" draws without replacement, with probabilities in proportion to ranks;
            "gumbel" draws in proportion to exp(sum of scores), as DSIR does with `Importance`.
        quality: rules for texts; None filters by none.
        near: documents that are as near as this to an earlier one are left out, by the Jaccard similarity of their
            groups of three words; None keeps all.
        seed: of what is drawn.
    """

    by: tuple[Criterion, ...] = ()
    share: float = 1.0
    how: How = "hard"
    quality: Quality | None = field(default_factory=Quality)
    near: float | None = 0.8
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse shares and ways that there are not."""
        if not 0 < self.share <= 1 or (self.near is not None and not 0 < self.near <= 1):
            raise ConfigError(f"share={self.share}, near={self.near}: both lie in (0, 1].")
        if self.how not in get_args(How):
            raise ConfigError(f"how={self.how!r}: choose among {get_args(How)}.")
        if self.share < 1 and not self.by:
            raise ConfigError(f"share={self.share} without a criterion: say by what, such as by=(Novelty(),).")

    def choose(
        self, documents: Sequence[Example], reader: DocumentReader | None = None, progress: Progress | None = None
    ) -> Chosen:
        """Choose among documents; the same ones each time.

        Args:
            documents: may be a lazy sequence over files larger than memory.
            reader: the model that is to learn from them; needed where there are criteria.
            progress: who wants to know how far it is.

        Raises:
            ConfigError: if there are criteria and nobody reads.
            DataError: if there is no document, something is no document, or none passes the filters.
        """
        progress = progress or Silent()
        sizes, left = self._passed(documents, progress)
        passed = [i for i in range(len(documents)) if i not in left]
        if not passed:
            raise DataError(f"none of {len(documents)} documents passes the filters: {dict(Counter(left.values()))}.")
        scores = self._scores(select(documents, passed), reader, progress)
        budget = self.share * sum(sizes[i] for i in passed)
        taken, total = list[int](), 0
        for place in self._order(scores, len(passed)):
            if total >= budget:
                break
            taken.append(place)
            total += sizes[passed[place]]
        rows = tuple(sorted(passed[place] for place in taken))
        card = Card(
            selection=show(self),
            model=reader.model.name if reader else "",
            documents=len(documents),
            size=sum(sizes),
            left=dict(Counter(left.values())),
            passed=(len(passed), sum(sizes[i] for i in passed)),
            kept=(len(rows), total),
            spreads={name: spread(own, taken) for name, own in scores.items()},
            shown=self._shown(documents, passed, scores, set(taken)),
        )
        return Chosen(select(documents, rows), rows, card)

    def _passed(self, documents: Sequence[Example], progress: Progress) -> tuple["array[int]", dict[int, str]]:
        """Every document's bytes, and why those are left out that are."""
        sizes, left = array("q"), dict[int, str]()
        for number, example in enumerate(documents):
            if not example.text:
                where = example.source or example.key
                raise DataError(f"{where} is a conversation; documents are chosen among, {{text}} or text files.")
            sizes.append(len(example.text.encode()))
            broken = self.quality.broken(example.text) if self.quality else None
            left |= {number: broken} if broken else {}
            progress.update("filtering documents", number + 1, len(documents))
        if not len(sizes):
            raise DataError("there are no documents to choose among.")
        if self.near is not None:
            rest = [number for number in range(len(sizes)) if number not in left]
            seen = sketch(_Words(documents, rest))
            alike = Index(seen, range(len(rest))).near(seen, range(len(rest)), self.near)
            left |= {rest[place]: "near duplicates" for place in alike}
        return sizes, left

    def _scores(
        self, documents: Sequence[Example], reader: DocumentReader | None, progress: Progress
    ) -> dict[str, Tensor]:
        """What each criterion says of each document that passed, by the criterion as an expression."""
        found: dict[str, Tensor] = {}
        for criterion in self.by:
            name = show(criterion)
            if reader is None:
                raise ConfigError(f"{name} needs a model that reads; give a DocumentReader.")
            told = partial(_tell, progress, f"scoring by {name}", len(documents))
            found[name] = criterion.scores(documents, reader, told)
        return found

    def _order(self, scores: dict[str, Tensor], count: int) -> list[int]:
        """The documents that passed, those first that are kept first."""
        if not scores:
            return list(range(count))
        if self.how == "gumbel":
            drawn = torch.stack(list(scores.values())).sum(0) + self._gumbel(count)
        else:
            drawn = torch.stack([ranks(own) for own in scores.values()]).mean(0)
            if self.how == "soft":
                drawn = drawn.log() + self._gumbel(count)
        order: list[int] = drawn.sort(descending=True, stable=True).indices.tolist()
        return order

    def _gumbel(self, count: int) -> Tensor:
        """Noise that makes the largest of log-weights a draw in proportion to them (Gumbel top-k)."""
        uniform = torch.rand(count, generator=generator(self.seed, "selection"), dtype=torch.float64)
        return -(-uniform.clamp(1e-300, 1 - 1e-16).log()).log()

    def _shown(
        self, documents: Sequence[Example], passed: Sequence[int], scores: dict[str, Tensor], taken: set[int]
    ) -> dict[str, tuple[Shown, ...]]:
        """From each end of each criterion a few documents."""
        found: dict[str, tuple[Shown, ...]] = {}
        for name, own in scores.items():
            order = own.sort(descending=True, stable=True).indices.tolist()
            ends = dict.fromkeys(order[:QUOTED] + order[-QUOTED:])
            quoted = ((i, documents[passed[i]]) for i in ends)
            found[name] = tuple(Shown.of(float(own[i]), i in taken, example) for i, example in quoted)
        return found


class _Words(Sequence[Sequence[str]]):
    """The words of some documents, which are read again each time, so that they are never all in memory."""

    def __init__(self, documents: Sequence[Example], rows: Sequence[int]) -> None:
        self.documents, self.rows = documents, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Sequence[str]]:
        return (words(example.text) for example in each(self.documents, self.rows))

    @overload
    def __getitem__(self, index: int) -> Sequence[str]: ...
    @overload
    def __getitem__(self, index: slice) -> "_Words": ...
    def __getitem__(self, index: int | slice) -> "Sequence[str] | _Words":
        if isinstance(index, slice):
            return _Words(self.documents, self.rows[index])
        return words(self.documents[self.rows[index]].text)


def _tell(progress: Progress, stage: str, total: int, done: int) -> None:
    progress.update(stage, done, total)


def ranks(scores: Tensor) -> Tensor:
    """(N,) in (0, 1]: the share of documents whose score is not higher; equals share the mean of their ranks.

    Args:
        scores: (N,).
    """
    _, place, counts = np.unique(scores.numpy(), return_inverse=True, return_counts=True)
    ends = counts.cumsum() - (counts - 1) / 2
    return torch.from_numpy(ends[place] / len(scores))
