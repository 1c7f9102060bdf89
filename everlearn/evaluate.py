"""One row of the matrix: one version asked every test item of every experience, and of the general suite.

Each exam's outcomes are kept in a file named by version, test items, metric and candidates, so that nothing is asked
twice and a stopped evaluation goes on where it was.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from everlearn.config import dump
from everlearn.examples import Example
from everlearn.files import read_json, write_json
from everlearn.metrics.likelihood import Choice
from everlearn.models.answers import TOKENS, answer
from everlearn.models.language_model import LanguageModel
from everlearn.models.parallel import Processes
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


def rounds(
    model: LanguageModel,
    version: str,
    exams: Sequence[Exam],
    folder: Path,
    progress: Progress,
    processes: Processes,
) -> Iterator[dict[str, tuple[Outcome, ...]]]:
    """A version's outcomes by exam, piece by piece; read from `folder` where it has sat the same exam before.

    Args:
        model: holds the version.
        version: its name.
        exams: what it is asked.
        folder: of outcomes; the main process writes them as they come.
        progress: told what this process does.
        processes: each sits one exam of a round, whole, so that its outcomes are those of one process; the exams of a
            round have about as many items.
    """
    files = {exam.name: folder / f"{exam.key(version)}.json" for exam in exams}
    known = processes.by_main(
        lambda: {exam.name: _read(files[exam.name]) for exam in exams if files[exam.name].exists()}
    )
    yield known
    rest = [exam for exam in exams if exam.name not in known]
    if processes.count > 1:
        rest.sort(key=lambda exam: len(exam.examples), reverse=True)
    for start in range(0, len(rest), processes.count):
        together = rest[start : start + processes.count]
        with processes.gathered(model.module):
            mine = together[processes.index : processes.index + 1]
            sat = [sit(model, exam, _Named(progress, exam)) for exam in mine]
        found = {exam.name: part[0] for exam, part in zip(together, processes.gather(sat), strict=False)}
        for exam in together:
            processes.by_main(_write, files[exam.name], version, exam, found[exam.name])
        yield found


def _read(file: Path) -> tuple[Outcome, ...]:
    return tuple(Outcome(key, score, reply) for key, score, reply in read_json(file)["outcomes"])


def _write(file: Path, version: str, exam: Exam, outcomes: Sequence[Outcome]) -> None:
    rows = [[o.key, o.score, o.reply] for o in outcomes]
    write_json(file, {"version": version, "exam": exam.name, "metric": dump(exam.metric), "outcomes": rows})


class _Named:
    """Progress under an exam's name."""

    def __init__(self, progress: Progress, exam: Exam) -> None:
        self._progress, self._stage = progress, f"scoring {exam.name}" + (" again" if exam.tokens < TOKENS else "")

    def update(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Pass on."""
        self._progress.update(self._stage, done, total, note)
