"""Votes at test time: they help where the majority is right, and the probe stops them where it is wrong."""

from dataclasses import replace
from pathlib import Path

import pytest

from everlearn.adaptation import TTRL, Adapted, format_only, measure, ttrl
from everlearn.errors import ConfigError, DataError
from everlearn.examples import Example, Message
from everlearn.learner import Learner, learn
from everlearn.method import chain
from everlearn.metrics.text import ExactMatch
from everlearn.models.optim import AdamW, Recipe
from everlearn.models.sampling import Sampling
from everlearn.models.schedules import Schedule
from everlearn.objectives.next_token import NextToken
from everlearn.objectives.policy_gradient import PolicyGradient
from everlearn.objectives.rollouts import SingleTurn
from everlearn.rewards.text import Exact
from everlearn.rewards.votes import MajorityVote
from everlearn.testing.toys import question, toy_folder
from everlearn.types import Experience, State

LETTERS = "abcdefghijklmnopqrst"
RECIPE = Recipe(AdamW(3e-3), Schedule("constant", warmup=0.0), batch_size=4, epochs=14, length=32, tokens=2048)
VOTE = PolicyGradient(MajorityVote(), group=16, learned=8, scale="group", rollout=SingleTurn(Sampling(limit=2)))


@pytest.fixture(scope="module")
def undecided(tmp_path_factory: pytest.TempPathFactory) -> tuple[Learner, State]:
    """A model that answers x to three of five prompts of any kind, and y to two."""
    folder = toy_folder(tmp_path_factory.mktemp("model") / "toy")
    rows = [question(f"say {w}", answer) for w in LETTERS for answer in "xxxyy"]
    taught = Recipe(AdamW(5e-3), batch_size=20, epochs=12, length=32, tokens=4096)
    learner = Learner(str(folder), chain(), taught)
    model = learner.open()
    state = learn(learner, model, learner.start(model), Experience("x.or.y", rows, rows, NextToken(), ExactMatch()))
    return replace(learner, recipe=RECIPE), state


def asked(right: str) -> Experience:
    """Prompts that nobody has answered, a probe, and held-out items, all answered alike."""
    prompts = [question(f"say {w}", "") for w in LETTERS[:8]]
    probe, held_out = ([question(f"say {w}", right) for w in part] for part in (LETTERS[8:14], LETTERS[14:]))
    return Experience("vote", prompts, held_out, VOTE, ExactMatch(), probe)


def ratios(found: Adapted) -> list[float]:
    return [row["notes"]["majority ratio"] for row in found.log if row.get("notes")]


@pytest.fixture(scope="module")
def right(undecided: tuple[Learner, State]) -> Adapted:
    return ttrl(*undecided, asked("x"), TTRL(plateau=0.9, patience=2))


def test_where_the_majority_is_right_held_out_prompts_rise_past_its_own_start(right: Adapted) -> None:
    assert 0.4 < right.before.attempts < right.before.majority
    assert right.after.attempts > right.before.majority
    assert set(right.answers) == {"x"}
    assert right.state.seen == ("x.or.y", "vote")


def test_a_plateau_ends_it(right: Adapted) -> None:
    assert right.ended == ("plateau",)
    assert min(ratios(right)[-2:]) >= 0.9 > min(ratios(right)[-3:-1])
    assert len(ratios(right)) < 28


def test_what_the_log_shows_needs_no_answer(right: Adapted) -> None:
    steps = [row["notes"] for row in right.log if row.get("notes")]
    for name in ("majority ratio", "answer entropy", "distinct answers", "tied", "unanswered"):
        assert all(name in notes for notes in steps)
    assert all("right label" not in notes for notes in steps)
    assert steps[-1]["answer entropy"] < steps[0]["answer entropy"]


def test_where_it_is_wrong_it_is_as_sure_and_the_probe_stops_it(
    undecided: tuple[Learner, State], right: Adapted
) -> None:
    wrong = ttrl(*undecided, asked("y"), TTRL(plateau=0.9, patience=2))
    assert wrong.ended == ("probe",)
    seen = len(ratios(wrong))
    assert ratios(wrong) == ratios(right)[:seen], "nothing in the vote tells"
    probed = [row["validation"] for row in wrong.log if "validation" in row]
    assert probed[-1] < max(probed) - 0.1
    assert wrong.after.attempts > wrong.before.attempts - 0.1, "the best weights were taken back"


def test_episodes_start_from_the_same_version_and_leave_it(undecided: tuple[Learner, State]) -> None:
    learner, state = undecided
    brief = replace(learner, recipe=replace(RECIPE, epochs=1))
    found = ttrl(brief, state, asked("x"), TTRL(mode="episodic", samples=4))
    assert found.state is state
    assert len(found.ended) == 2
    assert len(found.answers) == 8
    names = {row["experience"] for row in found.log}
    assert names == {"vote.0", "vote.1"}
    steps = [row["step"] for row in found.log if row["experience"] == "vote.1" and "loss" in row]
    assert steps == [1]


def test_the_control_arm_gains_nothing_where_form_is_not_the_matter(undecided: tuple[Learner, State]) -> None:
    learner, state = undecided
    control = format_only(replace(learner, recipe=replace(RECIPE, epochs=1)), state, asked("x"))
    drawn = [row["notes"]["even"] for row in control.log if row.get("notes")]
    assert min(drawn) > 0.5, "any answer is rewarded, and most are answers"
    assert control.after.answers == control.before.answers


def test_a_majority_of_what_is_drawn_is_judged_as_its_first_member_is_written(undecided: tuple[Learner, State]) -> None:
    learner, state = undecided
    found = measure(learner.restore(learner.open(), state), asked("x"), MajorityVote(), 16, 3)
    assert found.answers == 1
    assert 0.8 < found.majority <= 1
    assert 0.4 < found.attempts < 0.8


def test_an_item_that_is_adapted_to_is_refused(undecided: tuple[Learner, State]) -> None:
    good = asked("x")
    leaks = (replace(good, test=[question("say a", "x")]), replace(good, validation=[question("say b", "x")]))
    for leak in leaks:
        with pytest.raises(DataError, match=r"1 are prompts that are adapted to"):
            ttrl(*undecided, leak)
    with pytest.raises(DataError, match=r"probe \(validation\): there are none"):
        format_only(*undecided, replace(good, validation=()))


def test_what_does_not_vote_is_refused(undecided: tuple[Learner, State]) -> None:
    for objective, says in ((NextToken(), "attempts nothing"), (replace(VOTE, reward=Exact()), "its reward is Exact")):
        with pytest.raises(ConfigError, match=says):
            ttrl(*undecided, replace(asked("x"), objective=objective))
    for wrong in ({"every": 0}, {"mode": "eager"}):
        with pytest.raises(ConfigError, match="mode is continual or episodic"):
            TTRL(**wrong)  # type: ignore[arg-type]


def test_a_row_without_an_answer_may_end_with_its_question(undecided: tuple[Learner, State]) -> None:
    learner, state = undecided
    model = learner.restore(learner.open(), state)
    bare, empty = Example(messages=(Message("user", "say a"),)), question("say a", "")
    drawn = [[a.trace.tokens for a in VOTE.attempt(model, [e], 0)] for e in (bare, empty)]
    assert drawn[0] == drawn[1]


def test_a_start_from_nothing_is_the_base_model(tmp_path: Path) -> None:
    learner = Learner(str(toy_folder(tmp_path / "toy")), chain(), replace(RECIPE, epochs=1))
    found = ttrl(learner, None, asked("x"), TTRL(samples=2))
    assert found.state.seen == ("vote",)
