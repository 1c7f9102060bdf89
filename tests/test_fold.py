"""A run is a fold: scored, judged, kept, stopped and resumed."""

import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from everlearn.data.preferences import pair
from everlearn.data.rejects import Reject
from everlearn.errors import ConfigError, DataError, Interrupted, RegistryError
from everlearn.evaluate import Scored
from everlearn.files import lock, read_json, read_jsonl
from everlearn.fold import Run, Settings, run
from everlearn.learner import Learner
from everlearn.measures import summary
from everlearn.method import chain
from everlearn.methods.replay import Replay
from everlearn.metrics.likelihood import Choice
from everlearn.models.optim import AdamW, Recipe
from everlearn.objectives.criteria import DPO
from everlearn.objectives.preference import Preference
from everlearn.report import write_report
from everlearn.testing.toys import question, toy_folder, toy_stream
from everlearn.types import Experience, Stream
from tests.gates import RefuseSecond

RECIPE = Recipe(AdamW(learning_rate=1e-2), batch_size=4, length=64, epochs=6)
QUIET = Settings(suite=())


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(toy_folder(tmp_path_factory.mktemp("toy")))


@pytest.fixture(scope="module")
def done(toy: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    learner = Learner(toy, chain(Replay(fraction=0.2)), RECIPE)
    return run(learner, toy_stream(), tmp_path_factory.mktemp("done"), QUIET)


def test_every_version_is_scored_on_every_experience(done: Run) -> None:
    matrix = done.matrix
    assert matrix.names == ("letters", "cats", "digits")
    assert len(matrix.scores) == 4
    assert all(score is not None for row in matrix.scores for score in row)
    assert matrix.scores[2][1] > matrix.scores[0][1]  # type: ignore[operator]
    assert all(len(row.items(i)) == 6 for row in matrix.rows for i in range(3))
    assert matrix.repeat is not None


def test_a_version_may_be_scored_on_its_past_alone(toy: str, done: Run, tmp_path: Path) -> None:
    learner = Learner(toy, chain(Replay(fraction=0.2)), RECIPE)
    made = run(learner, toy_stream(), tmp_path / "past", replace(QUIET, scored="past"))
    known = [[score is not None for score in row] for row in made.matrix.scores]
    assert known == [[True] * 3, [True, False, False], [True, True, False], [True] * 3]
    for row, whole in zip(made.matrix.scores, done.matrix.scores, strict=True):
        assert all(score in (None, one) for score, one in zip(row, whole, strict=True))
    unknown = {measure.name for measure in summary(made.matrix) if measure.value is None}
    assert "forward_transfer_lopez_paz" in unknown
    assert "backward_transfer_lopez_paz" not in unknown
    with pytest.raises(ConfigError, match="another scored"):
        run(learner, toy_stream(), tmp_path / "past", QUIET)
    write_report({"past": made}, tmp_path / "report.html")
    assert "not measured" in (tmp_path / "report.html").read_text()


def test_only_the_last_version_may_be_scored(toy: str, done: Run, tmp_path: Path) -> None:
    learner = Learner(toy, chain(Replay(fraction=0.2)), RECIPE)
    made = run(learner, toy_stream(), tmp_path / "last", replace(QUIET, scored="last"))
    assert made.matrix.scores == (done.matrix.scores[0], (None,) * 3, (None,) * 3, done.matrix.scores[3])


def test_a_version_may_be_scored_on_its_own_experience_alone(toy: str, done: Run, tmp_path: Path) -> None:
    learner = Learner(toy, chain(Replay(fraction=0.2)), RECIPE)
    made = run(learner, toy_stream(), tmp_path / "own", replace(QUIET, scored="own"))
    first, one, two, last = done.matrix.scores
    assert made.matrix.scores == (first, (one[0], None, None), (None, two[1], None), last)
    known = {measure.name: measure.value for measure in summary(made.matrix)}
    whole = {measure.name: measure.value for measure in summary(done.matrix)}
    assert known["backward_transfer_lopez_paz"] == whole["backward_transfer_lopez_paz"] is not None
    assert known["forgetting_chaudhry"] is None
    write_report({"own": made}, tmp_path / "report.html")


@pytest.mark.parametrize("scored", ["last", "own"])
def test_a_gate_is_given_enough_to_judge_by(scored: Scored) -> None:
    with pytest.raises(ConfigError, match="too little to judge by"):
        Settings(gate=RefuseSecond(), scored=scored)


def test_the_version_that_is_gone_back_to_is_asked_what_it_was_not(toy: str, tmp_path: Path) -> None:
    learner, asked = Learner(toy, chain(), RECIPE), replace(QUIET, gate=RefuseSecond(), scored="past")
    made = run(learner, toy_stream(), tmp_path, asked)
    whole = run(learner, toy_stream(), tmp_path / "whole", replace(asked, scored="all"))
    known = [[score is not None for score in row] for row in made.matrix.scores]
    assert known == [[True] * 3, [True, False, False], [True, True, False], [True] * 3]
    assert made.matrix.scores[2][:2] == whole.matrix.scores[1][:2]
    assert run(learner, toy_stream(), tmp_path, asked).matrix == made.matrix


def test_the_ledger_tells_the_story(done: Run) -> None:
    kinds = [(e.kind, e.experience) for e in done.events]
    assert kinds == [("commit", ""), ("commit", "letters"), ("commit", "cats"), ("commit", "digits")]
    assert [e.parent for e in done.events[1:]] == [e.version for e in done.events[:-1]]


def test_a_finished_run_started_again_does_nothing(toy: str, done: Run) -> None:
    before = len(done.events)
    again = run(Learner(toy, chain(Replay(fraction=0.2)), RECIPE), toy_stream(), done.folder, QUIET)
    assert again.matrix == done.matrix
    assert len(again.events) == before


def test_a_version_can_be_brought_back(toy: str, done: Run) -> None:
    learner = Learner(toy, chain(Replay(fraction=0.2)), RECIPE)
    state = done.files.versions.get(done.events[1].version)
    model = learner.restore(learner.open(), state)
    assert state.seen == ("letters",)
    assert all(model.parameters()[n].equal(w.to(model.parameters()[n].dtype)) for n, w in state.weights.items())


def test_another_run_in_the_same_folder_is_refused(toy: str, done: Run) -> None:
    with pytest.raises(ConfigError, match="holds a run with another learner"):
        run(Learner(toy, chain(), RECIPE), toy_stream(), done.folder, QUIET)
    with pytest.raises(ConfigError, match="another stream"):
        run(Learner(toy, chain(Replay(fraction=0.2)), RECIPE), toy_stream(8), done.folder, QUIET)


def test_a_folder_at_work_is_refused(toy: str, tmp_path: Path) -> None:
    with lock(tmp_path / ".lock", 0, ""), pytest.raises(RegistryError, match="another process is at work"):
        run(Learner(toy, chain(), RECIPE), toy_stream(), tmp_path, QUIET)


def test_a_refused_version_leaves_the_one_before_in_place(toy: str, tmp_path: Path) -> None:
    made = run(Learner(toy, chain(), RECIPE), toy_stream(), tmp_path, replace(QUIET, gate=RefuseSecond()))
    assert [e.kind for e in made.events] == ["commit", "commit", "reject", "commit"]
    assert made.events[3].parent == made.events[1].version
    assert made.matrix.scores[2] == made.matrix.scores[1]
    assert made.files.versions.get(made.events[3].version).seen == ("letters", "digits")
    again = run(Learner(toy, chain(), RECIPE), toy_stream(), tmp_path, replace(QUIET, gate=RefuseSecond()))
    assert again.matrix == made.matrix


def test_rows_that_are_too_long_are_set_aside_and_too_many_stop_the_run(toy: str, tmp_path: Path) -> None:
    stream = toy_stream()
    long = question("x" * 100, "y")
    first = replace(stream.experiences[0], train=[*stream.experiences[0].train, replace(long, source="rows.jsonl:9")])
    stream = replace(stream, experiences=(first, *stream.experiences[1:]))
    learner = Learner(toy, chain(), replace(RECIPE, epochs=1))
    run(learner, stream, tmp_path / "few", QUIET)
    (row,) = [read_json(tmp_path / "few" / "rejected.jsonl")]
    assert row["source"] == "rows.jsonl:9"
    assert "more than length=64" in row["reason"]
    with pytest.raises(DataError, match=r"rows.jsonl:9"):
        run(learner, stream, tmp_path / "none", replace(QUIET, bad_rows=0.0))


def test_preferences_are_a_stream_like_any_other_and_long_rejected_answers_are_set_aside(
    toy: str, tmp_path: Path
) -> None:
    parts = []
    for word, chosen, other in (("say", "yes", "no"), ("tell", "one", "two")):
        rows = [pair(question(f"{word} {w}", "x").prompt, chosen, other, {}) for w in "abcdefghijklmnopqrstuvwx"]
        long = replace(pair(rows[0].prompt, "yes", "n" * 60, {}), source="pairs.jsonl:7")
        rows = [*rows, long] if word == "say" else rows
        parts.append(Experience(word, tuple(rows), tuple(rows[:4]), Preference(DPO(beta=0.5)), Choice()))
    made = run(Learner(toy, chain(Replay(fraction=0.2)), RECIPE), Stream(tuple(parts)), tmp_path, QUIET)
    assert made.matrix.scores[-1] == (1.0, 1.0)
    assert [row["source"] for _, row in read_jsonl(tmp_path / "rejected.jsonl")] == ["pairs.jsonl:7"]
    notes = [row["notes"] for row in made.files.metrics() if row.get("notes")]
    assert notes[0]["margin"] == pytest.approx(0.0, abs=1e-5)
    assert notes[-1]["accuracy"] == 1.0


def test_rows_rejected_when_the_stream_was_read_are_kept_in_a_file(toy: str, tmp_path: Path) -> None:
    rejects = tuple(Reject(f"a.jsonl:{i}", "no prompt") for i in range(30))
    recipe = replace(RECIPE, epochs=1)
    run(Learner(toy, chain(), recipe), toy_stream(), tmp_path, replace(QUIET, rejects=rejects))
    assert len(list(read_jsonl(tmp_path / "rejected.jsonl"))) == 30


def test_an_online_stream_is_seen_once(toy: str, tmp_path: Path) -> None:
    made = run(Learner(toy, chain(), RECIPE), replace(toy_stream(), online=True), tmp_path, QUIET)
    assert [r["step"] for r in made.files.metrics() if r["experience"] == "letters"] == [1, 2, 3]


class Presser:
    """Progress that presses Ctrl-C once."""

    def __init__(self, stage: str) -> None:
        self.stage, self.pressed = stage, False

    def update(self, stage: str, done: int, total: int, note: str = "") -> None:
        if stage == self.stage and not self.pressed:
            self.pressed = True
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("stage", ["learning cats", "scoring answers"])
def test_ctrl_c_leaves_a_run_that_goes_on_to_the_same_matrix(stage: str, toy: str, done: Run, tmp_path: Path) -> None:
    assert threading.current_thread() is threading.main_thread()
    learner = Learner(toy, chain(Replay(fraction=0.2)), RECIPE)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted):
        run(learner, toy_stream(), tmp_path, QUIET, Presser(stage))
    assert signal.getsignal(signal.SIGINT) is before
    resumed = run(learner, toy_stream(), tmp_path, QUIET)
    assert resumed.matrix == done.matrix
    assert [e.version for e in resumed.events] == [e.version for e in done.events]


def test_an_experience_may_have_longer_rows_than_the_others(toy: str, tmp_path: Path) -> None:
    long = [question("a" * 80, "b", "long") for _ in range(4)]  # 85 tokens
    letters = toy_stream().experiences[0]
    stages = [replace(letters, name=name, train=long, length=length) for name, length in (("one", 90), ("two", 96))]
    learner = Learner(toy, chain(), replace(RECIPE, epochs=1))
    made = run(learner, Stream(tuple(stages)), tmp_path / "long", QUIET)
    assert made.matrix.learned == 2
    assert not (tmp_path / "long" / "rejected.jsonl").exists()
    assert [e["length"] for e in made.files.asked()["stream"]["experiences"]] == [90, 96]
    with pytest.raises(DataError, match="85 tokens, more than length=64"):
        run(learner, Stream((replace(stages[0], length=None),)), tmp_path / "short", QUIET)
