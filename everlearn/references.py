"""Reference rows for a matrix: what a model reaches that learns all experiences together, one alone, or none.

The last is asked in context: demonstrations stand before each test item, and nothing is trained.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from everlearn.data.demonstrations import demonstrations
from everlearn.data.sequences import Joined
from everlearn.errors import ConfigError
from everlearn.evaluate import Exam, exams, rounds
from everlearn.examples import Example
from everlearn.learner import Learner, learn
from everlearn.matrix import Row
from everlearn.models.answers import length
from everlearn.models.generate import positions
from everlearn.models.language_model import LanguageModel
from everlearn.models.parallel import launched
from everlearn.run_folder import RunFolder
from everlearn.types import Experience, Given, Outcome, Progress, Silent, State, Stream
from everlearn.watch import Watch

SHOTS = 8
"""Demonstrations before a test item when nothing else is said."""


def joint(learner: Learner, stream: Stream, out: str | Path, progress: Progress | None = None) -> Row:
    """One model that learns all experiences together: the upper bound that sequential methods are held to.

    Args:
        learner: as for `run`; methods that act on earlier experiences have nothing to act on.
        stream: whose experiences are learned together, in random order, by the first one's objective.
        out: a folder of its own; what was finished there is not done again.
        progress: who wants to know how far it is.
    """
    whole = replace(stream.experiences[0], name="joint", train=Joined(tuple(e.train for e in stream)))
    return _reference(learner, stream, whole, Path(out), exams(stream), progress or Silent())


def single(learner: Learner, stream: Stream, out: str | Path, progress: Progress | None = None) -> Row:
    """On each experience, a model that learns that one alone, from the base model.

    Args:
        learner: as for `run`.
        stream: whose experiences are learned apart.
        out: a folder of its own; what was finished there is not done again.
        progress: who wants to know how far it is.
    """
    watch, asked = progress or Silent(), exams(stream)
    rows = [_reference(learner, stream, e, Path(out) / e.name, asked[i : i + 1], watch) for i, e in enumerate(stream)]
    return Row(tuple(r.scores[i] for i, r in enumerate(rows)), tuple(r.items(i) for i, r in enumerate(rows)))


def in_context(
    learner: Learner, stream: Stream, out: str | Path, progress: Progress | None = None, shots: int = SHOTS
) -> Row:
    """The untouched base model, asked every test item with demonstrations before it; nothing is trained.

    Demonstrations are training rows of the item's experience, in a class-incremental stream of all experiences, drawn
    by the learner's seed, class-balanced where there are labels, and the same before all items; see
    `everlearn.data.demonstrations`. Conversations stand there as earlier turns, documents as earlier text. An item
    before which not all of them fit is given the first so many (as in HELM, arXiv:2211.09110). What fits is the
    recipe's length, answer included, or the model's positions where they are fewer. The row's note says how many were
    shown. An experience before whose items nothing can be shown is not measured, and the note says why.

    Args:
        learner: its model, seed and recipe's length; its method is not used.
        stream: whose test items are asked.
        out: a folder of its own; what was finished there is not done again.
        progress: who wants to know how far it is.
        shots: demonstrations before an item; 1 at least.

    Raises:
        ConfigError: if `shots` is less than 1.
    """
    if shots < 1:
        raise ConfigError(f"in_context with shots={shots}; show 1 demonstration at least. Row 0 is the model without.")
    folder, processes, model = RunFolder(Path(out)), launched(), learner.open()
    room = min(learner.recipe.length, positions(model.module) or learner.recipe.length)
    asked, said = list[Exam](), [f"{shots} demonstrations before each item"]
    for experience, exam in zip(stream, exams(stream), strict=True):
        drawn = demonstrations(stream, experience, shots, learner.seed, lambda e: len(model.encode(e).tokens) < room)
        ready = replace(exam, shown=tuple(_fitting(model, exam, item, drawn, room) for item in exam.examples))
        asked += [ready] if any(ready.shown) else []
        said += _exceptions(ready, shots, len(drawn), room)
    outcomes: dict[str, tuple[Outcome, ...]] = {}
    for found in rounds(model, model.identity, asked, folder.scores, progress or Silent(), processes):
        outcomes |= found
    return replace(Row.from_outcomes(stream.names, outcomes), note="; ".join(said))


def _fitting(
    model: LanguageModel, exam: Exam, item: Example, drawn: Sequence[Example], room: int
) -> tuple[Example, ...]:
    """As many demonstrations, from the first on, as fit before an item."""
    question = exam.metric.question
    # A longer text is cut into passes, of which later ones would not see what stands before it.
    most = min(room, exam.tokens // 2) if question == "predict" else room
    sizes = range(len(drawn), 0, -1)
    given = (Given(exam.candidates, exam.task, tuple(drawn[:size])) for size in sizes)
    return next((g.shown for g in given if length(model, question, item, g) <= most), ())


def _exceptions(exam: Exam, shots: int, drawn: int, room: int) -> list[str]:
    """In words, whether an experience's items have fewer demonstrations than were asked for, and why."""
    least, most = min(map(len, exam.shown)), max(map(len, exam.shown))
    if not drawn:
        return [f"{exam.name} not measured: no training row that fits into {room} tokens can stand before its items"]
    if not most:
        return [f"{exam.name} not measured: no item leaves room for a demonstration in {room} tokens"]
    few = [f"it has {drawn}"] * (drawn < shots) + [f"more do not fit into {room} tokens"] * (least < drawn)
    counted = f"{least}" if least == most else f"{least} to {most}"
    return [f"{exam.name} {counted}, since {' and '.join(few)}"] if few else []


def _reference(
    learner: Learner, stream: Stream, experience: Experience, out: Path, asked: Sequence[Exam], progress: Progress
) -> Row:
    """The row of a model that learned one experience, or what an earlier call has left of it."""
    folder, processes, model = RunFolder(out), launched(), learner.open()
    done = processes.by_main(_finished, folder)
    if done:
        learner.restore(model, folder.versions.get(done))
    else:
        log = folder.log if processes.main else lambda row: None
        watch = Watch(folder.checkpoint, progress=progress, log=log)
        candidate = learn(learner, model, learner.start(model), experience, watch, processes)
        about = {"model": learner.model, "identity": model.identity}
        done = processes.by_main(_keep, folder, candidate, about, experience.name)
    outcomes: dict[str, tuple[Outcome, ...]] = {}
    for found in rounds(model, done, asked, folder.scores, progress, processes):
        outcomes |= found
    return Row.from_outcomes(stream.names, outcomes)


def _finished(folder: RunFolder) -> str:
    """The version that an earlier call has left in the folder, if any."""
    done = [e.version for e in folder.events() if e.kind == "commit"] if folder.root.exists() else []
    return done[-1] if done else ""


def _keep(folder: RunFolder, candidate: State, about: dict[str, str], experience: str) -> str:
    version = folder.versions.put(candidate, None, about)
    folder.ledger.append("commit", version, None, experience, {}, "a reference")
    folder.forget_checkpoint()
    return version
