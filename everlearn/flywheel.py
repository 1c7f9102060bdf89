"""The preference flywheel: answer, score, pair, learn, compare, keep or take back; and again from the new version.

    for each round:
        pairs = score(answers of the version)
        candidate = learn(version, pairs)
        version = candidate if it wins, and forgets little, else version

A stream whose experiences are made one by one, each from the version before. Everything lies in one folder, as of a
run: versions, ledger, metrics, traces, and each round's pairs as JSONL. A round that was stopped goes on where it was.

What is left out: several processes, and a reward that is learned. Pairs are kept as text and encoded anew.
"""

import json
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from everlearn.config import dump, show
from everlearn.data.feedback import feedback_pairs, feedback_verdicts, read_feedback, require_clip
from everlearn.data.pairing import Pairing
from everlearn.data.rejects import BAD_ROWS, check_rejects, write_rejects
from everlearn.data.sequences import with_origin
from everlearn.drawn_pairs import Drawing
from everlearn.errors import ConfigError
from everlearn.evaluate import Exam
from everlearn.evaluate import rounds as sat
from everlearn.examples import Example, Message
from everlearn.files import lock, read_json, read_jsonl, write_atomic, write_json
from everlearn.learner import Learner, learn
from everlearn.metrics.likelihood import Choice
from everlearn.models.answers import longest
from everlearn.models.parallel import launched
from everlearn.objectives.preference import Preference
from everlearn.objectives.rollouts import SingleTurn
from everlearn.randomness import seed_of
from everlearn.registry.gates import Verdict
from everlearn.registry.ledger import HEADS, Event
from everlearn.registry.promotion import Promotion
from everlearn.rewards.reward import Answer, Reward, require_reward
from everlearn.rewards.win_rate import WinRate, win_rate
from everlearn.run_folder import RunFolder, describe_device
from everlearn.stopping import stoppable
from everlearn.types import Experience, Progress, Silent
from everlearn.watch import Watch

WON, WON_START = "win rate", "win rate over the start"


@dataclass(frozen=True)
class Flywheel:
    """What is asked in each round, how the answers become a lesson, and which versions are kept.

    To mix in replayed pairs of earlier rounds is the learner's method's part: `Replay`. The objective's reference is
    "start" for the version that each round begins with, or "base" for an anchored one.

    Args:
        prompts: conversations; what their last turn says is seen by the reward alone.
        held_out: conversations that are never learned from, on which versions are compared.
        reward: scores the answers that pairs are made of.
        judge: scores those that are compared; None takes the reward.
        objective: how pairs teach.
        rollout: how answers are drawn.
        group: answers to each prompt.
        pairing: which pairs are made of them.
        promotion: which versions are kept.
        suite: exams that have to be held; their names differ.
        feedback: a log of what people said, whose new lines join each round's pairs; see `everlearn.data.feedback`.
            What it says of held-out prompts is left out. A log of another name is read from its beginning.
        clip: most that an event of it counts for, 1 at least.
        bad_rows: largest fraction of its new rows that may be bad.
    """

    prompts: tuple[Example, ...]
    held_out: tuple[Example, ...]
    reward: Reward
    judge: Reward | None = None
    objective: Preference = field(default_factory=Preference)
    rollout: SingleTurn = field(default_factory=SingleTurn)
    group: int = 8
    pairing: Pairing = field(default_factory=Pairing)
    promotion: Promotion = field(default_factory=Promotion)
    suite: tuple[Exam, ...] = ()
    feedback: Path | None = None
    clip: float = 10.0
    bad_rows: float = BAD_ROWS

    def __post_init__(self) -> None:
        """Refuse metrics as rewards, and to compare versions on nothing, or on what they learn from."""
        require_reward(self.reward)
        require_reward(self.judge, "judge")
        require_clip(self.clip)
        asked = {_stripped(example.prompt) for example in self.prompts}
        both = [example.source or example.key for example in self.held_out if _stripped(example.prompt) in asked]
        if both or not self.held_out:
            what = f"{both[0]} is among the prompts too" if both else "there are none"
            raise ConfigError(f"held_out: {what}; versions are compared on prompts that are never learned from.")
        if self.group < 2:
            raise ConfigError(f"group is {self.group}; a pair needs two answers.")


def flywheel(
    learner: Learner, wheel: Flywheel, rounds: int, out: str | Path, progress: Progress | None = None
) -> list[Event]:
    """Turn the wheel until so many rounds are done; what was done in `out` before is not done again.

    A later call may ask for more rounds, also with another reward, judge, pairing, promotion or log: a round's pairs
    stay as they were made. Another objective or rollout, or other prompts or exams, take another folder.

    Args:
        learner: how to learn.
        wheel: what is asked, and how it is judged.
        rounds: in all.
        out: the folder.
        progress: who wants to know how far it is.

    Returns:
        What happened: the base version's commit, and for each round a commit or a reject, with scores and a reason.

    Raises:
        ConfigError: if `out` belongs to another learner or wheel, or if there are several processes.
        DataError: if too many of a log's new rows are bad, which are set aside in rejected.jsonl; if it has fewer lines
            than were read; or if no held-out answer can be scored.
        Interrupted: after Ctrl-C; the same call goes on.
        RegistryError: if another process works in `out`.
    """
    if launched().count > 1:
        raise ConfigError("a flywheel turns in one process; start it without a launcher.")
    folder = RunFolder(Path(out))
    busy = f"{out}: another process is at work there; wait for it, or choose another folder."
    with lock(folder.root / ".lock", 0, busy), stoppable() as stop:
        work = _Work(learner, wheel, folder, progress or Silent(), stop)
        work.start()
        for number in range(work.done + 1, rounds + 1):
            work.turn(f"round-{number}")
    return folder.events()


class _Work:
    """A flywheel at work: the mutable inside of `flywheel`."""

    def __init__(
        self, learner: Learner, wheel: Flywheel, folder: RunFolder, progress: Progress, stop: threading.Event
    ) -> None:
        self.learner, self.wheel, self.folder, self.progress = learner, wheel, folder, progress
        log, trace = folder.log, folder.trace
        self.watch = Watch(folder.checkpoint, progress=progress, log=log, trace=trace, stop=stop.is_set)

    def start(self) -> None:
        """Load the model, and go to where the work was left."""
        self.model = self.learner.open()
        self.folder.describe(self._asked(), self.model.identity, describe_device(self.model))
        self.state = self.learner.start(self.model)
        self.base = self.version = self._keep(None)
        self._answers(self.base)
        events = self.folder.events()
        if not events:
            self.folder.ledger.append("commit", self.base, None, "", self._suite(self.base), "the untouched base model")
        self.done = sum(event.kind in ("commit", "reject") for event in events[1:])
        self.version = self.folder.ledger.head() or self.base
        if self.version != self.base:
            self.state = self.folder.versions.get(self.version)
            self.learner.restore(self.model, self.state)

    def _asked(self) -> dict[str, Any]:
        """What may not change from round to round, since something that was kept depends on it."""
        wheel = self.wheel
        return {
            "learner": dump(self.learner),
            "objective": dump(wheel.objective),
            "rollout": dump(wheel.rollout),
            "prompts": [example.key for example in wheel.prompts],
            "held_out": [example.key for example in wheel.held_out],
            "suite": {exam.name: exam.key("") for exam in wheel.suite},
        }

    def turn(self, name: str) -> None:
        """One round."""
        pairs, before, parent = self._pairs(name), self.state, self.version
        if not pairs:
            why = "Nothing was learned: no answers differ by the gap that is asked, and nobody has said anything."
            self.folder.ledger.append("reject", parent, parent, name, {}, why)
            return
        lesson = Experience(name, pairs, pairs[:1], self.wheel.objective, Choice())
        self.state = learn(self.learner, self.model, before, lesson, self.watch)
        version = self._keep(parent)
        verdict, scores = self._judged(version)
        self.folder.ledger.append(
            "commit" if verdict.accept else "reject", version, parent, name, scores, verdict.reason
        )
        self.folder.forget_checkpoint()
        if verdict.accept:
            self.version = version
        else:
            self.state, self.model = before, self.learner.restore(self.learner.open(), before)

    def _pairs(self, name: str) -> tuple[Example, ...]:
        """The round's pairs, made once and read afterwards."""
        file = self.folder.root / "rounds" / f"{name}.jsonl"
        if not file.exists():
            said, log = self._said()
            self.progress.update(f"drawing answers for {name}", 0, len(self.wheel.prompts))
            wheel, seed = self.wheel, seed_of(self.learner.seed, "flywheel", name)
            drawing = Drawing(wheel.reward, wheel.rollout, wheel.group, wheel.pairing)
            drawn = drawing.draw(self.model, wheel.prompts, seed)
            for trace in drawn.traces:
                self.folder.trace({"experience": name, "version": self.version, **trace.row()})
            made = [*drawn.pairs, *said]
            pairs = [pair for pair in made if longest(self.model, pair) <= self.learner.recipe.length]
            about = {"version": self.version, "reward": dump(wheel.reward), "said": len(said), **log}
            write_json(file.with_suffix(".json"), {**about, **drawn.counts, "too_long": len(made) - len(pairs)})
            placed = (replace(pair, source=f"{file.name}:{line}") for line, pair in enumerate(pairs, start=1))
            rows = (pair.row() for pair in with_origin(list(placed), name))
            write_atomic(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        return tuple(Example.from_row(row) for _, row in read_jsonl(file))

    def _said(self) -> tuple[list[Example], dict[str, Any]]:
        """Preferences from what people said since the round before, and what was read of the log."""
        wheel, path = self.wheel, str(self.wheel.feedback)
        if wheel.feedback is None:
            return [], {}
        whole = (self.folder.root / "rounds").glob("*.jsonl")
        before = [about["log"] for file in whole if "log" in (about := read_json(file.with_suffix(".json")))]
        log = read_feedback(wheel.feedback, max((own["lines"] for own in before if own["path"] == path), default=0))
        # A round that was stopped before it was whole may have set rows aside; they are read again.
        aside = self.folder.rejects()[: sum(own["rejected"] for own in before)]
        write_rejects(self.folder.root / "rejected.jsonl", [*aside, *log.rejects])
        check_rejects(log.rejects, len(log.rejects) + len(log.events), wheel.bad_rows)
        held = {_stripped(example.prompt) for example in wheel.held_out}
        events = [event for event in log.events if _stripped(event.prompt) not in held]
        about = {"path": path, "lines": log.lines, "rejected": len(log.rejects), "events": len(log.events)}
        made = feedback_pairs if wheel.objective.criterion.paired else feedback_verdicts
        return made(events, wheel.clip), {"log": about | {"held_out": len(log.events) - len(events)}}

    def _judged(self, version: str) -> tuple[Verdict, dict[str, float]]:
        """Whether a candidate is kept, and its scores."""
        judge, now = self.wheel.judge or self.wheel.reward, self._suite(version)
        won = over = self._won(judge, version, self.version)
        if self.version != self.base:
            over = self._won(judge, version, self.base)
        kept = [event.scores for event in self.folder.events() if event.kind in HEADS]
        best = {name: max(s for scores in kept if (s := scores.get(name)) is not None) for name in now}
        return self.wheel.promotion.judge(won, best, now), {WON: won.share, WON_START: over.share, **now}

    def _won(self, judge: Reward, version: str, other: str) -> WinRate:
        return win_rate(judge, self.wheel.held_out, self._answers(version), self._answers(other))

    def _answers(self, version: str) -> list[Answer]:
        """A version's answers on the held-out prompts; the live model gives those that are not yet known."""
        file = self.folder.root / "answers" / f"{version}.json"
        if not file.exists():
            seed = seed_of(self.learner.seed, "held out")
            drawn = self.wheel.rollout.run(self.model, self.wheel.held_out, 1, seed)
            answers = [Answer(trace.text, trace.finished, trace.length) for (trace,) in drawn]
            write_json(file, [asdict(answer) for answer in answers])
        return [Answer(**row) for row in read_json(file)]

    def _suite(self, version: str) -> dict[str, float]:
        """The live model's means on the exams that have to be held."""
        found: dict[str, float] = {}
        for outcomes in sat(self.model, version, self.wheel.suite, self.folder.scores, self.progress, launched()):
            found |= {name: fmean(outcome.score for outcome in own) for name, own in outcomes.items()}
        return found

    def _keep(self, parent: str | None) -> str:
        about = {"model": self.learner.model, "identity": self.model.identity, "method": show(self.learner.method)}
        return self.folder.versions.put(self.state, parent, about)


def _stripped(prompt: Sequence[Message]) -> tuple[Message, ...]:
    """A prompt without the blanks around its turns, which make no other prompt of it."""
    return tuple(Message(turn.role, turn.content.strip()) for turn in prompt)
