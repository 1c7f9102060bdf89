"""Reference rows for a matrix: what a model reaches that learns all experiences together, or one alone."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from everlearn.data.sequences import Joined
from everlearn.evaluate import Exam, exams, rounds
from everlearn.learner import Learner, learn
from everlearn.matrix import Row
from everlearn.models.parallel import launched
from everlearn.run_folder import RunFolder
from everlearn.types import Experience, Outcome, Progress, Silent, State, Stream
from everlearn.watch import Watch


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
