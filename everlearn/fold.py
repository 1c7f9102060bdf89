"""Continual learning is a fold: `state = learn(state, experience)`, with each version scored, judged and kept.

The run can be stopped at any moment, by Ctrl-C or by force, and started again with the same call: finished
experiences are read from the ledger, the unfinished one goes on from its checkpoint, and the matrix is the same.
"""

import json
import threading
from array import array
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from everlearn.config import dump, show
from everlearn.data.rejects import BAD_ROWS, Reject, check_rejects, write_rejects
from everlearn.data.sequences import select
from everlearn.errors import ConfigError, DataError, Interrupted
from everlearn.evaluate import Scored, asked_after, exams, reaching, rounds
from everlearn.examples import Example
from everlearn.files import lock
from everlearn.learner import Learner, learn
from everlearn.matrix import Matrix, Row
from everlearn.metrics.suites import general_suite
from everlearn.models.answers import longest
from everlearn.models.parallel import launched
from everlearn.needs import require_stream
from everlearn.registry.gates import AllOf, Gate
from everlearn.registry.ledger import Event, Kind
from everlearn.run_folder import RunFolder, describe_device, describe_stream
from everlearn.stopping import stoppable
from everlearn.types import Experience, Outcome, Progress, Silent, State, Stream
from everlearn.watch import Watch

Answers = dict[str, tuple[Outcome, ...]]


@dataclass(frozen=True)
class Settings:
    """What a run needs beside its learner and its stream.

    Args:
        gate: decides which versions are kept; `AllOf(())` keeps all.
        suite: items of general ability; None takes the suite that comes with the package, () asks none.
        checkpoint_every: seconds between checkpoints inside an experience.
        scored: what a version is asked: "all" experiences; those of the "past", learned so far, which halves the work
            and leaves forward transfer unmeasured; its "own" alone, whose work grows with their number and not with its
            square, enough for backward transfer but not for a peak in between; or nothing but after the "last" one, for
            sweeps. The base model and the last version are asked all; general ability goes along with all and past.
        bad_rows: largest fraction of rows that may be too long before the run refuses to train.
        rejects: rows that were set aside when the stream was read; they are kept with those that are too long.
        scores: folder for outcomes, so that runs on one base model can share its row; None takes the run's own.
        source: how the run was asked for, so that it can be repeated: plain data, kept in run.json.
    """

    gate: Gate = field(default_factory=lambda: AllOf(()))
    suite: tuple[Example, ...] | None = None
    checkpoint_every: float = 60.0
    scored: Scored = "all"
    bad_rows: float = BAD_ROWS
    rejects: tuple[Reject, ...] = ()
    scores: Path | None = None
    source: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a gate that would judge versions which nobody asked."""
        if self.scored in ("last", "own") and self.gate != AllOf(()):
            raise ConfigError(
                f'scored="{self.scored}" leaves the gate {self.gate} too little to judge by; take "past", or "all" for '
                "a gate that looks at experiences to come."
            )


@dataclass(frozen=True)
class Run:
    """A run that was made, read from its folder.

    Args:
        folder: where it lies.
    """

    folder: Path

    @cached_property
    def files(self) -> RunFolder:
        """What lies in the folder."""
        return RunFolder(self.folder)

    @cached_property
    def matrix(self) -> Matrix:
        """R with intervals, as far as it was measured."""
        return self.files.read_matrix()

    @property
    def events(self) -> list[Event]:
        """What happened to the versions."""
        return self.files.events()


def run(
    learner: Learner,
    stream: Stream,
    out: str | Path,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Run:
    """Learn a stream, experience by experience; score, judge and keep each version.

    Launched as several processes, all of them learn and score; the main one alone writes the folder, which all read.

    Args:
        learner: how to learn.
        stream: what to learn.
        out: the run's folder; a run that was stopped there goes on.
        settings: gate, general suite, checkpoints.
        progress: who wants to know how far it is.

    Raises:
        ConfigError: if `out` holds another run.
        DataError: if too many rows had to be set aside.
        MethodError: if the method needs what the stream does not tell, or boundaries that it has not.
        Interrupted: after Ctrl-C; the same call goes on.
        RegistryError: if another process works in `out`.
    """
    require_stream(learner.method, stream)
    folder, processes = RunFolder(Path(out)), launched()
    busy = f"{out}: another process is at work there; wait for it, or choose another folder."
    alone = lock(folder.root / ".lock", 0, busy) if processes.main else nullcontext()
    with alone, stoppable(patient=processes.count > 1) as stop:
        watched = progress if progress and processes.main else Silent()
        work = _Work(learner, stream, folder, settings or Settings(), watched, stop)
        work.start()
        for experience in work.stream.experiences[work.done :]:
            candidate = learn(work.learner, work.model, work.state, experience, work.watch, processes)
            work.judge(candidate)
    return Run(folder.root)


class _Work:
    """A run under way: the mutable inside of `run`."""

    def __init__(
        self,
        learner: Learner,
        stream: Stream,
        folder: RunFolder,
        settings: Settings,
        progress: Progress,
        stop: threading.Event,
    ) -> None:
        recipe = replace(learner.recipe, epochs=1) if stream.online else learner.recipe
        self.learner, self.folder, self.settings = replace(learner, recipe=recipe), folder, settings
        self.progress, self.stop, self.stream, self.processes = progress, stop, stream, launched()
        log, trace = (folder.log, folder.trace) if self.processes.main else (lambda row: None, lambda row: None)
        self.watch = Watch(folder.checkpoint, settings.checkpoint_every, progress, log, trace, stop.is_set)
        self.suite = general_suite() if settings.suite is None else settings.suite
        self.rows: list[Answers] = []
        self.done = 0

    def start(self) -> None:
        """Load the model, set bad rows aside, and go to where the run was stopped."""
        self.progress.update(f"loading {self.learner.model}", 0, 1)
        self.model = reaching(self.learner.open(), self.stream)
        self.processes.by_main(self.folder.describe, self._asked(), self.model.identity, describe_device(self.model))
        self.progress.update(f"loading {self.learner.model}", 1, 1)
        self.stream = self._fitting()
        self.processes.by_main(self.folder.keep_tests, self.stream)
        self.exams = exams(self.stream, self.suite)
        self.state = self.learner.start(self.model)
        base = self.version = self._keep(self.state, None)
        events = self.processes.by_main(self.folder.events)
        self.rows.append(self._answers(self.model.identity, 0))
        self.repeat = self._answers(self.model.identity, 0, again=True)
        if not events:
            self._record("commit", base, None, "", "the untouched base model")
        for event in events[1:]:
            self._repeat(event)
        if self.version != base:
            self.state = self.folder.versions.get(self.version)
            self.learner.restore(self.model, self.state)
        self._publish()

    def judge(self, candidate: State) -> None:
        """Score a candidate and let the gate decide whether it is kept."""
        version, number = self._keep(candidate, self.version), self.done + 1
        self.rows.append(self._answers(version, number))
        verdict = self.settings.gate.judge(self._matrix(), number)
        kept = self.rows[-1] if verdict.accept else self._back(number)
        kind: Kind = "commit" if verdict.accept else "reject"
        self._record(kind, version, self.version, self.stream.names[self.done], verdict.reason)
        self.processes.by_main(self.folder.forget_checkpoint)
        self.done, self.rows[-1] = number, kept
        if verdict.accept:
            self.version, self.state = version, candidate
        self._publish()

    def _back(self, number: int) -> Answers:
        """Go back to the version that was kept; what it answers after so many experiences."""
        self.model = self.learner.restore(reaching(self.learner.open(), self.stream), self.state)
        return self._answers(self.version, number)

    def _repeat(self, event: Event) -> None:
        """What an earlier start of this run has already done."""
        if event.kind != "reject":
            self.version = event.version
        if event.kind in ("commit", "reject"):
            self.done += 1
            self.rows.append(self._answers(self.version, self.done))

    def _keep(self, state: State, parent: str | None) -> str:
        about = {"model": self.learner.model, "identity": self.model.identity, "method": show(self.learner.method)}
        return self.processes.by_main(self.folder.versions.put, state, parent, about)

    def _record(self, kind: Kind, version: str, parent: str | None, experience: str, reason: str) -> None:
        means = {name: fmean(o.score for o in outcomes) for name, outcomes in self.rows[-1].items()}
        self.processes.by_main(self.folder.ledger.append, kind, version, parent, experience, means, reason)

    def _answers(self, version: str, number: int, again: bool = False) -> Answers:
        """A version's outcomes by exam; the live model is asked what is not yet known.

        Args:
            version: kept or about to be judged.
            number: of experiences before its row of the matrix.
            again: whether in smaller passes, to see what differs by rounding.
        """
        answers: Answers = {}
        folder = self.settings.scores or self.folder.scores
        asked = asked_after(self.exams, self.stream.names, number, self.settings.scored)
        asked = [exam.again() for exam in asked] if again else asked
        for found in rounds(self.model, version, asked, folder, self.progress, self.processes):
            answers |= found
            if any(self.processes.any(self.stop.is_set())):
                raise Interrupted(f"stopped while scoring {version}.")
        return {exam.name: answers[exam.name] for exam in asked}

    def _matrix(self) -> Matrix:
        rows = [self._part(answers, False) for answers in self.rows]
        general = [self._part(answers, True) for answers in self.rows] if self.suite else []
        matrix = Matrix.from_outcomes(self.stream.names, rows, general)
        repeat = Row.from_outcomes(self.stream.names, self._part(self.repeat, False))
        if matrix.general is not None:
            again = Row.from_outcomes(matrix.general.names, self._part(self.repeat, True))
            matrix = replace(matrix, general=replace(matrix.general, repeat=again))
        return replace(matrix, repeat=repeat)

    def _part(self, answers: Answers, general: bool) -> Answers:
        return {
            exam.name: answers[exam.name] for exam in self.exams if exam.general == general and exam.name in answers
        }

    def _publish(self) -> None:
        self.processes.by_main(self.folder.write_matrix, self._matrix())
        self.progress.update("experiences", self.done, len(self.stream))

    def _asked(self) -> dict[str, Any]:
        asked = {"learner": dump(self.learner), "stream": describe_stream(self.stream)}
        return asked | {
            "gate": dump(self.settings.gate),
            "scored": self.settings.scored,
            "suite": [item.key for item in self.suite],
            "source": dict(self.settings.source),
        }

    def _fitting(self) -> Stream:
        """The stream without conversations longer than its experiences' rows; what is left out is kept in a file.

        Raises:
            DataError: if more rows would be left out than the settings allow.
        """
        found: list[Reject] = []
        parts, total = [], 0
        for number, experience in enumerate(self.stream):
            self.progress.update("reading the stream", number, len(self.stream), experience.name)
            train, validation = (self._shorter(p, experience, found) for p in (experience.train, experience.validation))
            parts.append(replace(experience, train=train, validation=validation))
            total += len(experience.train) + len(experience.validation)
        if found or self.settings.rejects:
            self.processes.by_main(write_rejects, self.folder.root / "rejected.jsonl", [*self.settings.rejects, *found])
        check_rejects(found, total, self.settings.bad_rows)
        empty = [e.name for e in parts if not len(e.train) or not len(e.test)]
        if empty:
            raise DataError(f"no training or no test rows are left in {empty}; see {self.folder.root}/rejected.jsonl.")
        self.progress.update("reading the stream", len(parts), len(parts))
        return replace(self.stream, experiences=tuple(parts))

    def _shorter(self, examples: Sequence[Example], of: Experience, found: list[Reject]) -> Sequence[Example]:
        """The examples that fit into an experience's rows; the others are added to `found`."""
        length, before = of.length or self.learner.recipe.length, len(found)
        kept = array("Q")
        for number, example in enumerate(examples):
            size = 0 if example.text else longest(self.model, example)
            if size <= length:
                kept.append(number)
                continue
            row = json.dumps(example.row(), ensure_ascii=False)[:200]
            found.append(Reject(example.source, f"{size} tokens, more than length={length}", row))
        return examples if len(found) == before else select(examples, kept)
