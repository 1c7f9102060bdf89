"""One row of the matrix: one version asked every test item of every experience, and of the general suite.

Each exam's outcomes are kept in a file named by version, test items, metric and candidates, so that nothing is asked
twice and a stopped evaluation goes on where it was.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from everlearn.config import dump
from everlearn.examples import Example
from everlearn.files import read_json, write_json
from everlearn.metrics.likelihood import Choice
from everlearn.models.answers import TOKENS, answer, identify, length
from everlearn.models.language_model import LanguageModel
from everlearn.models.parallel import Processes
from everlearn.models.rope import allow
from everlearn.types import Given, Metric, Outcome, Progress, Question, Reply, Stream

Scored = Literal["all", "past", "own", "last"]
"""What the versions of a run are asked; see `asked_after`."""
SCORED: Mapping[Question, str] = {"generate": "answers", "choose": "choices", "predict": "texts"}
"""What is scored, for people."""


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
        task: what the model is told that the items belong to; empty where the scenario does not tell.
        shown: for each item the demonstrations that stand before it; empty where none do.
    """

    name: str
    examples: tuple[Example, ...]
    metric: Metric
    candidates: tuple[str, ...] = ()
    tokens: int = TOKENS
    general: bool = False
    task: str = ""
    shown: tuple[tuple[Example, ...], ...] = ()

    def key(self, version: str) -> str:
        """The name of a version's outcomes on this exam."""
        items, shown = [[e.key, e.metadata] for e in self.examples], [[e.key for e in before] for before in self.shown]
        asked = [version, items, dump(self.metric), self.candidates, self.tokens, *filter(None, [self.task, shown])]
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:24]

    def given(self) -> list[Given]:
        """What the model is told beside each item's prompt."""
        return [Given(self.candidates, self.task, shown) for shown in self.shown or [()] * len(self.examples)]

    def again(self) -> "Exam":
        """The same exam in smaller passes: a second measurement that differs by rounding alone."""
        return replace(self, tokens=self.tokens // 3)


def exams(stream: Stream, suite: Sequence[Example] = ()) -> list[Exam]:
    """An exam for each experience, and one for each ability of the general suite.

    A task-incremental stream tells the model what it is asked about; of an ability it tells that too, and no method
    will have learned it.
    """
    tell = stream.scenario == "task"
    own = [Exam(e.name, tuple(e.test), e.metric, e.candidates, task=e.name if tell else "") for e in stream]
    abilities = dict.fromkeys(str(item.metadata["ability"]) for item in suite)
    return own + [
        Exam(
            name,
            tuple(item for item in suite if item.metadata["ability"] == name),
            Choice(),
            general=True,
            task=f"general ability: {name}" if tell else "",
        )
        for name in abilities
    ]


def reaching(model: LanguageModel, stream: Stream) -> LanguageModel:
    """The base model, which may now be asked what stages of a growing context ask, however long.

    Beyond what it was trained to it may know nothing; that is seen in its row.
    """
    staged = [e for e in stream if e.length is not None and e.metric.question == "generate"]
    sizes = [length(model, "generate", item, Given(e.candidates)) for e in staged for item in e.test]
    if sizes:
        allow(model.module, max(sizes))
    return model


def asked_after(exams: Sequence[Exam], names: Sequence[str], number: int, scored: Scored) -> list[Exam]:
    """The exams of the version after so many experiences; the base model and the last version are asked all.

    Args:
        exams: of the experiences and the general abilities.
        names: of the experiences, in the order they are learned.
        number: of experiences that were learned.
        scored: "all" of the exams; those of the "past", learned so far, and of general ability; the "own" one of the
            experience just learned; or none before the "last" version.
    """
    if scored == "all" or number in (0, len(names)):
        return list(exams)
    asked = {"past": names[:number], "own": names[number - 1 : number], "last": ()}[scored]
    return [exam for exam in exams if exam.name in asked or (exam.general and scored == "past")]


def sit(model: LanguageModel, exams: Sequence[Exam], progress: Progress | None = None) -> list[tuple[Outcome, ...]]:
    """A model's outcomes on exams that ask the same question, each in the order of its items.

    The items of all of them are sorted by length and asked together, so that few passes are short of work.
    """
    if not exams:
        return []
    question, tokens = exams[0].metric.question, min(exam.tokens for exam in exams)
    examples = [example for exam in exams for example in exam.examples]
    given = [given for exam in exams for given in exam.given()]
    replies = iter(answer(model, question, examples, given, tokens, progress))
    return [_outcomes(model, exam, [next(replies) for _ in exam.examples]) for exam in exams]


def _outcomes(model: LanguageModel, exam: Exam, replies: Sequence[Reply]) -> tuple[Outcome, ...]:
    """An exam's outcomes; with the experience that each item was taken for, where the model has to infer it."""
    routes = [] if exam.general or exam.task else identify(model, exam.examples)
    triples = zip(exam.examples, replies, routes or [("", 0.0)] * len(replies), strict=True)
    return tuple(Outcome(e.key, exam.metric.score(e, reply), reply.text, *route) for e, reply, route in triples)


def rounds(
    model: LanguageModel,
    version: str,
    exams: Sequence[Exam],
    folder: Path,
    progress: Progress,
    processes: Processes,
) -> Iterator[dict[str, tuple[Outcome, ...]]]:
    """A version's outcomes by exam, piece by piece; read from `folder` where it has sat the same exam before.

    All exams of a question are sat at once, those whose outcomes are known too, so that what stands together in a pass
    does not depend on where an evaluation was stopped.

    Args:
        model: holds the version.
        version: its name.
        exams: what it is asked.
        folder: of outcomes; the main process writes them as they come.
        progress: told what this process does.
        processes: each sits whole exams, of about as many items as the others.
    """
    files = {exam.name: folder / f"{exam.key(version)}.json" for exam in exams}
    known = processes.by_main(
        lambda: {exam.name: _read(files[exam.name]) for exam in exams if files[exam.name].exists()}
    )
    yield known
    for question in dict.fromkeys(exam.metric.question for exam in exams):
        alike = [exam for exam in exams if exam.metric.question == question]
        missing = [exam for exam in alike if exam.name not in known]
        if not missing:
            continue
        shares = _shares(alike, processes.count)
        with processes.gathered(model.module):
            sat = sit(model, shares[processes.index], _Named(progress, alike[0]))
        pairs = zip(shares, processes.gather(sat), strict=True)
        found = {exam.name: outcomes for share, part in pairs for exam, outcomes in zip(share, part, strict=True)}
        for exam in missing:
            processes.by_main(_write, files[exam.name], version, exam, found[exam.name])
        yield {exam.name: found[exam.name] for exam in missing}


def _shares(exams: Sequence[Exam], count: int) -> list[list[Exam]]:
    """The exams in so many parts of about as many items."""
    shares: list[list[Exam]] = [[] for _ in range(count)]
    for exam in sorted(exams, key=lambda exam: len(exam.examples), reverse=True) if count > 1 else exams:
        min(shares, key=lambda share: sum(len(e.examples) for e in share)).append(exam)
    return shares


def _read(file: Path) -> tuple[Outcome, ...]:
    return tuple(Outcome(*row) for row in read_json(file)["outcomes"])


def _write(file: Path, version: str, exam: Exam, outcomes: Sequence[Outcome]) -> None:
    rows = [[o.key, o.score, o.reply, *([o.routed, o.confidence] if o.routed else [])] for o in outcomes]
    write_json(file, {"version": version, "exam": exam.name, "metric": dump(exam.metric), "outcomes": rows})


class _Named:
    """Progress under the name of what is scored."""

    def __init__(self, progress: Progress, exam: Exam) -> None:
        again = " again" if exam.tokens < TOKENS else ""
        self._progress, self._stage = progress, f"scoring {SCORED[exam.metric.question]}{again}"

    def update(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Pass on."""
        self._progress.update(self._stage, done, total, note)
