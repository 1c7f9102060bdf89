"""Reference rows for a matrix: what a model reaches that learns all experiences together, or one alone."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from everlearn.data.sequences import Joined
from everlearn.evaluate import exams, scored
from everlearn.learner import Learner, Watch, learn
from everlearn.matrix import Row
from everlearn.run_folder import RunFolder
from everlearn.types import Experience, Progress, Silent, Stream


def joint(learner: Learner, stream: Stream, out: str | Path, progress: Progress | None = None) -> Row:
    """One model that learns all experiences together: the upper bound that sequential methods are held to.

    Args:
        learner: as for `run`; methods that act on earlier experiences have nothing to act on.
        stream: whose experiences are learned together, in random order, by the first one's objective.
        out: a folder of its own; what was finished there is not done again.
        progress: who wants to know how far it is.
    """
    whole = replace(stream.experiences[0], name="joint", train=Joined(tuple(e.train for e in stream)))
    return _reference(learner, stream, whole, RunFolder(Path(out)), progress or Silent())


def single(learner: Learner, stream: Stream, out: str | Path, progress: Progress | None = None) -> Row:
    """On each experience, a model that learns that one alone, from the base model.

    Args:
        learner: as for `run`.
        stream: whose experiences are learned apart.
        out: a folder of its own; what was finished there is not done again.
        progress: who wants to know how far it is.
    """
    watch = progress or Silent()
    rows = [_reference(learner, stream, e, RunFolder(Path(out) / e.name), watch) for e in stream]
    return Row(tuple(r.scores[i] for i, r in enumerate(rows)), tuple(r.items(i) for i, r in enumerate(rows)))


def _reference(learner: Learner, stream: Stream, experience: Experience, folder: RunFolder, progress: Progress) -> Row:
    """The row of a model that learned one experience, or what an earlier call has left of it."""
    model = learner.open()
    state = learner.start(model)
    done: Sequence[str] = [e.version for e in folder.events() if e.kind == "commit"] if folder.root.exists() else []
    if done:
        learner.restore(model, folder.versions.get(done[-1]))
    else:
        watch = Watch(folder.checkpoint, progress=progress, log=folder.log)
        candidate = learn(learner, model, state, experience, watch)
        version = folder.versions.put(candidate, None, {"model": learner.model, "identity": model.identity})
        folder.ledger.append("commit", version, None, experience.name, {}, "a reference")
        folder.forget_checkpoint()
        done = [version]
    outcomes = {exam.name: scored(model, done[-1], exam, folder.scores, progress) for exam in exams(stream)}
    return Row.from_outcomes(stream.names, outcomes)
