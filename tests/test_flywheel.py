"""The flywheel on the toy: rounds that help, one that harms and is taken back, and rounds that go on after a stop."""

import json
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from everlearn.data.pairing import Pairing
from everlearn.errors import ConfigError, DataError, Interrupted
from everlearn.evaluate import Exam
from everlearn.examples import Example
from everlearn.flywheel import WON, WON_START, Flywheel, flywheel
from everlearn.learner import Learner
from everlearn.method import chain
from everlearn.methods.replay import Replay
from everlearn.metrics.likelihood import TokenLikelihood
from everlearn.models.optim import AdamW, Recipe
from everlearn.models.sampling import Sampling
from everlearn.objectives.criteria import DPO, KTO
from everlearn.objectives.preference import Preference
from everlearn.objectives.rollouts import SingleTurn
from everlearn.registry.ledger import Event
from everlearn.registry.promotion import Promotion
from everlearn.rewards.reward import Answer
from everlearn.run_folder import RunFolder
from everlearn.testing.toys import question, toy_folder


@dataclass(frozen=True)
class Vowels:
    """The hidden preference: the share of vowels, or of what is none."""

    wanted: bool = True

    def score(self, example: Example, replies: Sequence[Answer]) -> list[float | None]:
        return [sum((c in "aeiou") == self.wanted for c in r.text) / max(len(r.text), 1) for r in replies]


@dataclass(frozen=True)
class Same:
    """No answer is better than another."""

    def score(self, example: Example, replies: Sequence[Answer]) -> list[float | None]:
        return [0.5] * len(replies)


@dataclass(frozen=True)
class Counted:
    """As `Vowels`, and what it was asked is written down."""

    file: str

    def score(self, example: Example, replies: Sequence[Answer]) -> list[float | None]:
        with Path(self.file).open("a") as file:
            file.write(f"{example.key}\n")
        return Vowels().score(example, replies)


class StopsAt:
    """Somebody who presses Ctrl-C, so many times, when a stage is half done, but for the first times that it is."""

    def __init__(self, stage: str, times: int, first: int = 0) -> None:
        self.stage, self.times, self.left = stage, times, first

    def update(self, stage: str, done: int, total: int, note: str = "") -> None:
        if stage != self.stage or 2 * done < total:
            return
        self.left -= 1
        for _ in range(self.times if self.left < 0 else 0):
            signal.raise_signal(signal.SIGINT)


WHEEL = Flywheel(
    prompts=tuple(question(f"say {w}", "x") for w in "abcdefghijkl"),
    held_out=tuple(question(f"tell {w}", "x") for w in "abcdefghijklmnop"),
    reward=Vowels(),
    objective=Preference(DPO(beta=0.1)),
    rollout=SingleTurn(Sampling(limit=8)),
    pairing=Pairing(truncated=True, per_prompt=2),
    suite=(Exam("cats", (question("a cat", "sat"),), TokenLikelihood()),),
)


def learner(folder: Path) -> Learner:
    recipe = Recipe(AdamW(learning_rate=5e-3), batch_size=8, length=64, tokens=1024, epochs=3)
    return Learner(str(toy_folder(folder / "toy")), chain(Replay(fraction=0.2)), recipe, dtype="float64")


def said(events: Sequence[Event]) -> list[tuple[Any, ...]]:
    return [(e.kind, e.version, e.parent, e.experience, dict(e.scores), e.reason) for e in events]


@pytest.fixture(scope="module")
def turned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Event]]:
    """A good round, a harmful one, and another good one, with one judge throughout."""
    folder = tmp_path_factory.mktemp("wheel")
    harmful = replace(WHEEL, reward=Vowels(wanted=False), judge=Vowels())
    for rounds, wheel in ((1, WHEEL), (2, harmful), (3, WHEEL)):
        events = flywheel(learner(folder), wheel, rounds, folder / "out")
    return folder, events


def test_a_harmful_round_is_taken_back_and_the_next_one_begins_before_it(turned: tuple[Path, list[Event]]) -> None:
    _, (base, first, harmful, third) = turned
    assert [e.kind for e in (base, first, harmful, third)] == ["commit", "commit", "reject", "commit"]
    assert [e.experience for e in (first, harmful, third)] == ["round-1", "round-2", "round-3"]
    assert (first.parent, harmful.parent, third.parent) == (base.version, first.version, first.version)
    assert harmful.scores[WON] < 0.5
    assert harmful.reason.startswith("Taken back: it wins 0.")
    assert third.reason.startswith("Promoted: it wins 0.")
    assert first.scores[WON] == first.scores[WON_START] > 0.5
    assert third.scores[WON_START] > first.scores[WON_START]
    assert 0 < base.scores["cats"] < 1
    assert set(third.scores) == {WON, WON_START, "cats"}


def test_each_round_says_what_it_learned_from(turned: tuple[Path, list[Event]]) -> None:
    folder, events = turned
    for number, before in ((1, events[0]), (2, events[1]), (3, events[1])):
        file = folder / "out" / "rounds" / f"round-{number}.jsonl"
        about, rows = json.loads(file.with_suffix(".json").read_text()), file.read_text().splitlines()
        assert about["version"] == before.version  # the answers are that version's own
        assert about["pairs"] == len(rows) == about["low"] + about["mid"] + about["high"] <= 24
        assert all(json.loads(row)["origin"] == f"round-{number}" for row in rows)
    run = RunFolder(folder / "out")
    kept = run.versions.get(events[3].version)
    assert kept.seen == ("round-1", "round-3")
    assert {row["origin"] for row in kept.memory[0]["rows"]} == {"round-1", "round-3"}
    assert {row["experience"] for row in run.metrics()} == {"round-1", "round-2", "round-3"}
    assert len(run.traces()) == 3 * 12 * 8


def test_where_the_version_before_is_the_start_a_judge_is_asked_once(tmp_path: Path) -> None:
    flywheel(learner(tmp_path), replace(WHEEL, judge=Counted(str(tmp_path / "asked"))), 1, tmp_path / "out")
    asked = (tmp_path / "asked").read_text().splitlines()
    assert len(asked) == len(set(asked)) <= len(WHEEL.held_out)


def test_what_is_done_is_not_done_again(turned: tuple[Path, list[Event]]) -> None:
    folder, events = turned
    assert said(flywheel(learner(folder), WHEEL, 3, folder / "out")) == said(events)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunFolder]:
    """Two rounds that nobody stopped."""
    folder = tmp_path_factory.mktemp("straight")
    flywheel(learner(folder), WHEEL, 2, folder / "out")
    return folder, RunFolder(folder / "out")


def test_a_round_that_was_stopped_while_it_learned_goes_on_there_bit_for_bit(straight: tuple[Path, RunFolder]) -> None:
    folder, whole = straight
    run = RunFolder(folder / "stopped while it learned")
    with pytest.raises(Interrupted, match="stopped in round-2 after"):
        flywheel(learner(folder), WHEEL, 2, run.root, StopsAt("learning round-2", 1))
    before, steps = run.metrics(), [(row["experience"], row["step"], row["loss"]) for row in whole.metrics()]
    assert run.checkpoint.is_dir()
    assert ("round-2", 2) <= (before[-1]["experience"], before[-1]["step"]) < steps[-1][:2]  # in the middle
    assert said(flywheel(learner(folder), WHEEL, 2, run.root)) == said(whole.events())
    assert run.metrics()[: len(before)] == before  # what was learned is not learned again
    assert [(row["experience"], row["step"], row["loss"]) for row in run.metrics()] == steps
    assert not run.checkpoint.exists()


def test_a_round_that_was_stopped_at_once_while_it_was_judged_ends_as_if_it_had_not_been(
    straight: tuple[Path, RunFolder], request: pytest.FixtureRequest
) -> None:
    folder, whole = straight
    out = folder / "stopped at once"
    old = signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs in the background may ignore it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, old))
    with pytest.raises(KeyboardInterrupt):
        flywheel(learner(folder), WHEEL, 2, out, StopsAt("scoring texts", 2, first=2))
    assert len(RunFolder(out).events()) == 2  # the start and the first round
    assert said(flywheel(learner(folder), WHEEL, 2, out)) == said(whole.events())


def test_where_no_answer_is_better_nothing_is_learned(tmp_path: Path) -> None:
    base, rejected = flywheel(learner(tmp_path), replace(WHEEL, reward=Same()), 1, tmp_path / "out")
    assert (rejected.kind, rejected.version) == ("reject", base.version)
    assert rejected.reason.startswith("Nothing was learned")


def event(minute: int, answer: str, signal: str, prompt: str = "say q") -> str:
    time = f"2026-01-31T12:{minute:02}:00+00:00"
    row = {"time": time, "prompt": prompt, "answer": answer, "signal": signal, "propensity": 0.5}
    return json.dumps(row) + "\n"


@pytest.mark.parametrize("criterion", [DPO(), KTO()], ids=["pairs", "verdicts"])
def test_what_people_said_joins_the_round_that_it_came_before(tmp_path: Path, criterion: Any) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(event(1, "aei", "up") + event(2, "xyz", "down"))
    wheel = replace(WHEEL, reward=Same(), judge=Vowels(), feedback=log, objective=Preference(criterion))
    flywheel(learner(tmp_path), wheel, 1, tmp_path / "out")
    log.write_text(log.read_text() + event(0, "uu", "up") + event(3, "zz", "down"))  # one that came late
    flywheel(learner(tmp_path), wheel, 2, tmp_path / "out")
    rounds = [(tmp_path / "out" / "rounds" / f"round-{i}.jsonl").read_text().splitlines() for i in (1, 2)]
    first, second = ([json.loads(row)["messages"][-1]["content"] for row in rows] for rows in rounds)
    assert (first, second) == ((["aei"], ["uu"]) if criterion.paired else (["aei", "xyz"], ["uu", "zz"]))
    weights = {json.loads(row)["metadata"]["weight"] for rows in rounds for row in rows}
    assert weights == ({4.0} if criterion.paired else {2.0})


def test_bad_rows_of_a_log_are_counted_among_the_new_ones_and_set_aside(tmp_path: Path) -> None:
    log, run = tmp_path / "log.jsonl", RunFolder(tmp_path / "out")
    wheel = replace(WHEEL, reward=Same(), judge=Vowels(), feedback=log)
    log.write_text("".join(event(i, "x" * i, "up") for i in range(1, 20)) + "broken\n")  # 1 of 20
    flywheel(learner(tmp_path), wheel, 1, run.root)
    assert [reject.source for reject in run.rejects()] == [f"{log}:20"]
    whole = log.read_text()
    log.write_text(whole + "{}\n" + event(21, "a", "up"))
    with pytest.raises(DataError, match=f"1 of 2 rows are bad.*{log}:21"):
        flywheel(learner(tmp_path), wheel, 2, run.root)
    assert [reject.source for reject in run.rejects()] == [f"{log}:20", f"{log}:21"]
    flywheel(learner(tmp_path), replace(wheel, bad_rows=0.5), 1, tmp_path / "tolerant")
    log.write_text(whole + event(20, "xyz", "down") + event(21, "a", "up"))
    assert flywheel(learner(tmp_path), wheel, 2, run.root)[-1].experience == "round-2"
    assert [reject.source for reject in run.rejects()] == [f"{log}:20"]
    abouts = [json.loads((run.root / "rounds" / f"round-{i}.json").read_text())["log"] for i in (1, 2)]
    kept = [{k: about[k] for k in ("lines", "rejected", "events", "held_out")} for about in abouts]
    assert kept[0] == {"lines": 20, "rejected": 1, "events": 19, "held_out": 0}
    assert kept[1] == {"lines": 22, "rejected": 0, "events": 2, "held_out": 0}


def test_what_people_said_of_held_out_prompts_is_left_out_and_counted(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    heard = [event(1, "aei", "up", "tell a"), event(2, "xyz", "down", " tell a\n")]
    log.write_text("".join(heard) + event(3, "aei", "up") + event(4, "xyz", "down"))
    flywheel(learner(tmp_path), replace(WHEEL, reward=Same(), judge=Vowels(), feedback=log), 1, tmp_path / "out")
    file = tmp_path / "out" / "rounds" / "round-1.jsonl"
    assert [json.loads(row)["messages"][0]["content"] for row in file.read_text().splitlines()] == ["say q"]
    about = json.loads(file.with_suffix(".json").read_text())
    assert (about["log"]["held_out"], about["log"]["events"], about["said"]) == (2, 4, 1)


def test_pairs_that_are_too_long_are_left_out_and_counted(tmp_path: Path) -> None:
    short = learner(tmp_path)
    short = replace(short, recipe=replace(short.recipe, length=10))
    flywheel(short, WHEEL, 1, tmp_path / "out")
    about = json.loads((tmp_path / "out" / "rounds" / "round-1.json").read_text())
    assert about["too_long"] > 0


def test_held_out_prompts_are_not_learned_from_and_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigError, match="is among the prompts too"):
        replace(WHEEL, held_out=WHEEL.prompts[:1])
    with pytest.raises(ConfigError, match="there are none"):
        replace(WHEEL, held_out=())
    with pytest.raises(ConfigError, match="needs two answers"):
        replace(WHEEL, group=1)
    with pytest.raises(ConfigError, match=r"clip is 0\.5"):
        replace(WHEEL, clip=0.5)
    with pytest.raises(ConfigError, match=r"judge=TokenLikelihood\(.*no reward"):
        replace(WHEEL, judge=TokenLikelihood())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prompts", WHEEL.prompts[1:]),
        ("held_out", WHEEL.held_out[1:]),
        ("objective", Preference(KTO())),
        ("rollout", SingleTurn(Sampling(limit=9))),
        ("suite", (Exam("cats", (question("a cat", "ran"),), TokenLikelihood()),)),
    ],
)
def test_another_wheel_needs_another_folder(turned: tuple[Path, list[Event]], name: str, value: Any) -> None:
    folder, _ = turned
    with pytest.raises(ConfigError, match=f"another {name}"):
        flywheel(learner(folder), replace(WHEEL, **{name: value}), 4, folder / "out")


def test_a_version_that_forgets_is_taken_back_whatever_it_wins(tmp_path: Path) -> None:
    wheel = replace(WHEEL, promotion=Promotion(drop=0.0))
    event = flywheel(learner(tmp_path), wheel, 1, tmp_path / "out")[-1]
    assert event.scores[WON] > 0.5
    assert event.kind == "reject"
    assert "cats falls from" in event.reason
