"""The rollout filter: what stays, what waits, and what comes back."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from everlearn.errors import ConfigError, Interrupted, MethodError
from everlearn.examples import Example, Plan
from everlearn.fold import Settings, run
from everlearn.learner import Learner, learn
from everlearn.method import Context, chain
from everlearn.methods.replay import Replay
from everlearn.methods.rollout_filter import RIF
from everlearn.metrics.text import ExactMatch
from everlearn.models.language_model import LanguageModel
from everlearn.models.optim import AdamW, Recipe
from everlearn.models.sampling import Sampling
from everlearn.objectives.actor_critic import ActorCritic
from everlearn.objectives.continual_policy import CPPO
from everlearn.objectives.groups import Attempt, Attempting
from everlearn.objectives.next_token import NextToken
from everlearn.objectives.policy_gradient import PolicyGradient
from everlearn.objectives.rollouts import SingleTurn
from everlearn.rewards.reward import Answer
from everlearn.testing.laws import RECIPE, learned
from everlearn.testing.toys import question, toy_folder, toy_model
from everlearn.traces import Trace
from everlearn.types import Experience, Stream
from everlearn.watch import Watch
from everlearn.weights import equal, pack, unpack

SHORT = SingleTurn(Sampling(limit=3))
EARNED: dict[str, str] = {}
"""By objective, what attempts at each letter earn; a policy that has learned earns more."""
PROMPTS = [question(f"say {w}", w, "") for w in "abcdef"]


@dataclass(frozen=True)
class Table:
    """An objective whose attempts earn what a table says, by the letter that is asked for."""

    name: str

    @property
    def references(self) -> Mapping[str, float]:
        return {}

    def steps(self, model: LanguageModel, examples: Sequence[Example], plan: Plan) -> Any:
        return NextToken().steps(model, examples, plan)

    def loss(self, model: LanguageModel, batch: Any) -> Any:
        return NextToken().loss(model, batch)

    def attempt(
        self, model: LanguageModel, examples: Sequence[Example], seed: int, group: int | None = None
    ) -> list[Attempt]:
        earned = dict(part.split("=") for part in EARNED[self.name].split())
        found = []
        for e in examples:
            given = [None if r == "?" else float(r) for r in earned[e.response].split(",")]
            assert group == 2
            found += [Attempt(e, Trace((1,), (2,), (True,), (0.0,), task=e.key, reward=r)) for r in given[:group]]
        return found


def context(objective: Any, train: Sequence[Example] = PROMPTS, name: str = "one") -> tuple[Context, list[Any]]:
    noted: list[Any] = []
    experience = Experience(name, train, train, objective, ExactMatch())
    return Context(toy_model(), experience, note=noted.append), noted


def said(examples: Sequence[Example]) -> str:
    return "".join(e.response for e in examples)


@pytest.fixture
def table() -> Table:
    EARNED["first"] = "a=0,1 b=0,0 c=1,1 d=?,? e=?,0 f=.5,.5"
    return Table("first")


def test_a_prompt_stays_if_its_best_attempt_earned_more_than_the_threshold(table: Table) -> None:
    # best rewards: a 1, b 0, c 1, d none at all, e 0 (of the one that could be told), f 0.5
    ctx, noted = context(table)
    rif = RIF(attempts=2)
    memory = rif.begin(rif.init(ctx.model), ctx)
    assert said(rif.data(memory, PROMPTS, ctx)) == "acf"
    counts = {"kept": 3, "solved": 0, "failed": 2, "unscorable": 1, "retried": 0, "returned": 0, "deferred": 3}
    assert noted == [counts | {"rate": 0.5}]
    assert memory["counts"] == {"one": counts}


def test_a_threshold_is_not_enough_when_it_is_only_reached(table: Table) -> None:
    ctx, _ = context(table)
    for threshold, kept in ((0.5, "ac"), (0.4, "acf"), (1.0, ""), (-0.1, "abcef")):
        rif = RIF(attempts=2, threshold=threshold)
        assert said(rif.data(rif.begin(rif.init(ctx.model), ctx), PROMPTS, ctx)) == kept


def test_what_is_all_right_can_stay_out_too_and_does_not_wait(table: Table) -> None:
    ctx, noted = context(table)
    rif = RIF(attempts=2, drop_solved=True)
    memory = rif.begin(rif.init(ctx.model), ctx)
    assert said(rif.data(memory, PROMPTS, ctx)) == "a"
    assert noted[0]["solved"] == 2
    assert "".join(one["row"]["messages"][-1]["content"] for one in memory["deferred"]) == "bde"


def test_what_failed_is_tried_again_at_the_next_boundary_and_returns_under_its_own_name(table: Table) -> None:
    rif = RIF(attempts=2)
    before, _ = context(table)
    memory = rif.end(rif.begin(rif.init(before.model), before), before)
    new = [question("say x", "x", "")]
    EARNED["other"] = "x=1,0"
    other, noted = context(Table("other"), new, "two")
    waited = rif.begin(memory, other)
    assert said(rif.data(waited, new, other)) == "x"
    assert noted[0]["retried"] == 0, "another objective's verdict is not theirs"
    EARNED["first"] = "x=1,0 b=1,0 d=?,? e=0,0"
    ctx, noted = context(table, new, "three")
    after = rif.begin(rif.end(waited, other), ctx)
    assert [(e.response, e.origin) for e in rif.data(after, new, ctx)] == [("x", ""), ("b", "one")]
    assert (noted[0]["retried"], noted[0]["returned"], noted[0]["deferred"]) == (3, 1, 2)
    assert [one["tried"] for one in after["deferred"]] == [2, 2]
    assert rif.end(after, ctx)["returned"] == []


def test_a_prompt_that_is_met_again_is_no_longer_one_that_waits(table: Table) -> None:
    ctx, noted = context(table)
    rif = RIF(attempts=2)
    once = rif.end(rif.begin(rif.init(ctx.model), ctx), ctx)
    twice = rif.begin(once, ctx)
    assert noted[1] == noted[0], "nothing is tried or learned twice"
    assert twice["deferred"] == once["deferred"]


def test_those_that_failed_most_often_leave_the_pool_first(table: Table) -> None:
    rif = RIF(attempts=2, capacity=3)
    ctx, _ = context(table)
    memory = rif.end(rif.begin(rif.init(ctx.model), ctx), ctx)
    EARNED["first"] += " x=0,0"
    later, _ = context(table, [question("say x", "x", "")], "two")
    waiting = rif.begin(memory, later)["deferred"]
    assert [(one["row"]["messages"][-1]["content"], one["tried"]) for one in waiting] == [("x", 1), ("b", 2), ("d", 2)]
    assert RIF(attempts=2, capacity=0).begin(memory, later)["deferred"] == []


def test_what_stands_to_the_left_in_a_chain_stays(table: Table) -> None:
    ctx, _ = context(table)
    rif = RIF(attempts=2)
    old = question("say z", "z", "old")
    assert said(rif.data(rif.begin(rif.init(ctx.model), ctx), [*PROMPTS, old], ctx)) == "acfz"


def test_an_objective_that_attempts_nothing_is_refused_or_kept_whole() -> None:
    ctx, noted = context(NextToken())
    with pytest.raises(MethodError, match=r"one: RIF.* attempts nothing. Give the experience an objective"):
        RIF().begin(RIF().init(ctx.model), ctx)
    kind = RIF(otherwise="keep")
    assert kind.data(kind.begin(kind.init(ctx.model), ctx), PROMPTS, ctx) is PROMPTS
    assert noted == []


def test_objectives_around_a_policy_attempt_as_it_does() -> None:
    policy, model = PolicyGradient(Begins(), group=3, rollout=SHORT), toy_model()
    for objective in (CPPO(policy), ActorCritic(policy)):
        assert isinstance(objective, Attempting)
        assert objective.attempt(model, PROMPTS[:2], 1, 2) == policy.attempt(model, PROMPTS[:2], 1, 2)
    assert not isinstance(NextToken(), Attempting)


def test_counts_below_one_are_refused() -> None:
    for wrong in ({"attempts": 0}, {"capacity": -1}):
        with pytest.raises(ConfigError, match="attempts is 1 or more"):
            RIF(**wrong)


@dataclass(frozen=True)
class Begins:
    """1 if an answer begins with a vowel or with the prompt's letter."""

    def score(self, example: Example, replies: Sequence[Answer]) -> list[float | None]:
        return [float(r.text[:1] in ("a", "e", "i", "o", "u", example.response)) for r in replies]


def policies(count: int = 2) -> Stream:
    objective = PolicyGradient(Begins(), group=3, learned=1, rollout=SHORT)
    rows = [[question(f"say {w}{n}", w, "") for w in "abcdefgh"] for n in range(count)]
    return Stream(tuple(Experience(f"e{n}", own, own[:2], objective, ExactMatch()) for n, own in enumerate(rows)))


def test_the_policy_at_the_start_decides_and_all_its_attempts_count() -> None:
    # what the filter says is what one sees by asking the policy oneself, group by group, whatever is learned from
    stream, model = policies(), toy_model()
    rif, first = RIF(attempts=4), policies().experiences[0]
    objective = first.objective
    assert isinstance(objective, PolicyGradient)
    assert len(objective.attempt(model, first.train, 0)) == 8 * 1
    assert len(objective.attempt(model, first.train, 0, 4)) == 8 * 4
    ctx = Context(model, first, place=(0,))
    memory = rif.begin(rif.init(model), ctx)
    assert 0 < len(memory["out"]) < 8
    again = rif.begin(rif.init(model), ctx)
    assert again == memory
    after = learned(rif, stream).memory[0]["counts"]
    assert after["e0"] == memory["counts"]["e0"]
    assert after["e1"]["retried"] == after["e0"]["deferred"]


def test_laws_hold_where_something_is_filtered(tmp_path: Path) -> None:
    method = chain(Replay(fraction=0.3), RIF(attempts=3))
    straight = learned(method, policies())
    torch.manual_seed(1)
    again = learned(method, policies())
    learner, model = Learner("toy", method, RECIPE, 0), toy_model()
    state = learner.start(model)
    for experience in policies():
        asked = iter((False, True))
        with suppress(Interrupted):
            learn(learner, model, state, experience, Watch(tmp_path / experience.name, stop=lambda: next(asked, False)))  # noqa: B023
        model = learner.restore(toy_model(), state)
        state = learn(learner, model, state, experience, Watch(tmp_path / experience.name))
    for other in (again, state):
        assert equal(straight.weights, other.weights)
        assert straight.memory == other.memory
    skeleton, tensors = pack(straight.memory)
    assert unpack(skeleton, tensors) == straight.memory


def test_the_log_shows_the_keep_rate_and_test_rows_are_not_filtered(tmp_path: Path) -> None:
    learner = Learner(str(toy_folder(tmp_path / "toy")), RIF(attempts=2), Recipe(AdamW(1e-3), batch_size=4, length=64))
    found = run(learner, policies(), tmp_path / "run", Settings(suite=()))
    notes = [r for r in found.files.metrics() if "loss" not in r]
    assert [r["experience"] for r in notes] == ["e0", "e1"]
    assert notes[0]["step"] == 0
    assert notes[0]["notes"]["rate"] == notes[0]["notes"]["kept"] / 8
    assert [len(outcomes) for outcomes in found.matrix.rows[-1].outcomes] == [2, 2]


def test_an_experience_of_which_nothing_stays_changes_nothing(table: Table) -> None:
    EARNED["first"] = " ".join(f"{w}=0,0" for w in "abcdef")
    learner, model = Learner("toy", RIF(attempts=2), Recipe(epochs=2)), toy_model()
    state = learner.start(model)
    before = {n: p.detach().clone() for n, p in model.parameters().items()}
    after = learn(learner, model, state, context(table)[0].experience)
    assert equal(before, {n: p.detach() for n, p in model.parameters().items()})
    assert after.seen == ("one",)
