"""What was made: documents with where each came from, and a card that counts what was asked, lost and kept."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from everlearn.data.overlap import Index, sketch, words
from everlearn.examples import Example
from everlearn.files import atomic_file, write_atomic
from everlearn.synthesis.answers import Answers

QUOTED = 2
"""Documents of each kind that a card quotes."""
QUOTE = 160
"""Characters of a document that a card quotes."""


@dataclass(frozen=True)
class Card:
    """How documents were made.

    Args:
        recipe: as an expression; with the same inputs and the same answers it makes the same documents.
        model: who answered.
        judge: who judged.
        stages: what became of asks and of what was read from their answers, by stage.
        kinds: number of documents, and their bytes, by kind.
        shown: the beginnings of some documents, by kind.
    """

    recipe: str
    model: str
    judge: str
    stages: Mapping[str, Mapping[str, int]]
    kinds: Mapping[str, tuple[int, int]]
    shown: Mapping[str, tuple[str, ...]]

    def json(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self), ensure_ascii=False, indent=1) + "\n"

    def markdown(self) -> str:
        """As a page."""
        lines = ["# What was made, and how", "", f"`{self.recipe}`", ""]
        lines += [f"Written by {self.model}, judged by {self.judge}. Nothing of it was checked by a person.", ""]
        lines += ["| kind | documents | bytes |", "|---|---|---|"]
        lines += [f"| {kind} | {count} | {size} |" for kind, (count, size) in self.kinds.items()]
        lines += [""]
        for stage, counts in self.stages.items():
            told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
            lines.append(f"- {stage}: {told or 'nothing'}")
        for kind, texts in self.shown.items():
            lines += ["", f"## {kind}", "", *(f"- {text}" for text in texts)]
        return "\n".join([*lines, ""])


@dataclass(frozen=True)
class Made:
    """Documents for pre-training.

    Args:
        documents: each with its provenance as metadata: its kind, sources, model, and the names of the answers that it
            is made of.
        card: how they were made.
    """

    documents: tuple[Example, ...]
    card: Card

    def write(self, path: Path) -> Path:
        """Write the documents as JSONL, `{text, metadata}`, and the card beside them.

        Args:
            path: the file; the card has its name, with .card.md and .card.json in the place of its ending.

        Returns:
            The card's page.
        """
        with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
            for example in self.documents:
                row = {"text": example.text, "metadata": dict(example.metadata)}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        write_atomic(path.with_suffix(".card.json"), self.card.json())
        write_atomic(page := path.with_suffix(".card.md"), self.card.markdown())
        return page


def made(
    recipe: str, documents: Sequence[Example], near: float | None, answers: Answers, judge: Answers | None = None
) -> Made:
    """The documents without those that are near an earlier one, and their card.

    Args:
        recipe: as an expression.
        documents: each with its kind as metadata.
        near: Jaccard similarity of groups of three words; None keeps all.
        answers: who wrote.
        judge: who judged, where that is another one.
    """
    kept = list(documents)
    if near is not None and kept:
        seen = sketch([words(document.text) for document in kept])
        alike = Index(seen, range(len(kept))).near(seen, range(len(kept)), near)
        kept = [document for number, document in enumerate(kept) if number not in alike]
    stages = {name: dict(sorted(counts.items())) for name, counts in answers.counts.items()}
    for name, counts in judge.counts.items() if judge is not None and judge is not answers else ():
        stages[f"{name} (judge)" if name in stages else name] = dict(sorted(counts.items()))
    stages["documents"] = {"written": len(documents), "near an earlier one": len(documents) - len(kept)}
    by_kind: dict[str, list[str]] = {}
    for document in kept:
        by_kind.setdefault(str(document.metadata["kind"]), []).append(document.text)
    sizes = {kind: (len(texts), sum(len(text.encode()) for text in texts)) for kind, texts in by_kind.items()}
    shown = {kind: tuple(" ".join(t.split())[:QUOTE] for t in texts[:QUOTED]) for kind, texts in by_kind.items()}
    card = Card(recipe, answers.model, (judge or answers).model, stages, sizes, shown)
    return Made(tuple(kept), card)
