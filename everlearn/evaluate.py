"""One row of the matrix: one version asked every test item of every experience, and of the general suite.

Each exam's outcomes are kept in a file named by version, test items, metric and candidates, so that nothing is asked
twice and a stopped evaluation goes on where it was.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from everlearn.config import dump
from everlearn.examples import Example
from everlearn.files import read_json, write_json
from everlearn.metrics.likelihood import Choice
from everlearn.models.answers import TOKENS, answer
from everlearn.models.language_model import LanguageModel
from everlearn.types import Metric, Outcome, Progress, Stream


@dataclass(frozen=True)
class Exam:
    """Test items that are asked and judged alike.

    Args:
        name: of the experience, or of the general ability.
        examples: the items; one at least.
        metric: how replies are judged.
        candidates: what is offered where the metric's question is "choose" and an item brings no choices.
        tokens: most tokens in one forward pass; it may change an outcome by rounding alone, so it is part of its name.
        general: whether it belongs to the general suite.
    """

    name: str
    examples: tuple[Example, ...]
    metric: Metric
    candidates: tuple[str, ...] = ()
    tokens: int = TOKENS
    general: bool = False

    def key(self, version: str) -> str:
        """The name of a version's outcomes on this exam."""
        items = [[e.key, e.metadata] for e in self.examples]
        asked = json.dumps([version, items, dump(self.metric), self.candidates, self.tokens], sort_keys=True)
        return hashlib.sha256(asked.encode()).hexdigest()[:24]

    def again(self) -> "Exam":
        """The same exam in smaller passes: a second measurement that differs by rounding alone."""
        return replace(self, tokens=self.tokens // 3)


def exams(stream: Stream, suite: Sequence[Example] = ()) -> list[Exam]:
    """An exam for each experience, and one for each ability of the general suite."""
    own = [Exam(e.name, tuple(e.test), e.metric, e.candidates) for e in stream]
    abilities = dict.fromkeys(str(item.metadata["ability"]) for item in suite)
    return own + [
        Exam(a, tuple(i for i in suite if i.metadata["ability"] == a), Choice(), general=True) for a in abilities
    ]


def sit(model: LanguageModel, exam: Exam, progress: Progress | None = None) -> tuple[Outcome, ...]:
    """A model's outcomes on an exam, in the order of its items."""
    replies = answer(model, exam.metric.question, exam.examples, exam.candidates, exam.tokens, progress)
    pairs = zip(exam.examples, replies, strict=True)
    return tuple(Outcome(e.key, exam.metric.score(e, reply), reply.text) for e, reply in pairs)


def scored(
    model: LanguageModel, version: str, exam: Exam, folder: Path, progress: Progress | None = None
) -> tuple[Outcome, ...]:
    """As `sit`, but read from `folder` where the same version has sat the same exam before."""
    file = folder / f"{exam.key(version)}.json"
    if not file.exists():
        outcomes = sit(model, exam, progress)
        rows = [[o.key, o.score, o.reply] for o in outcomes]
        write_json(file, {"version": version, "exam": exam.name, "metric": dump(exam.metric), "outcomes": rows})
    return tuple(Outcome(key, score, reply) for key, score, reply in read_json(file)["outcomes"])
