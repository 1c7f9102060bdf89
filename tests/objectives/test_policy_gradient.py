"""The policy gradient on the toy: what is drawn, what is learned from, and the loss by hand."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from everlearn.data.packing import collate
from everlearn.errors import ConfigError, DataError, Interrupted, ModelError
from everlearn.examples import Batch, Example, Plan, Step
from everlearn.fold import Settings, run
from everlearn.learner import Learner, learn
from everlearn.method import chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.replay import Replay
from everlearn.metrics.likelihood import TokenLikelihood
from everlearn.metrics.overlap import RougeL
from everlearn.models.language_model import LanguageModel
from everlearn.models.optim import AdamW, Recipe
from everlearn.models.sampling import Sampling
from everlearn.objectives.groups import Attempt, attempts_of, judged, noted, rows_of
from everlearn.objectives.policy_gradient import PolicyGradient
from everlearn.objectives.rollouts import SingleTurn
from everlearn.objectives.surrogates import Clip, Reinforce
from everlearn.randomness import permutation, seed_of
from everlearn.rewards.extraction import Tagged
from everlearn.rewards.reward import Answer, Scored
from everlearn.rewards.votes import MajorityVote
from everlearn.testing.toys import question, toy_folder, toy_model, toy_stream
from everlearn.traces import Trace
from everlearn.types import Stream
from everlearn.watch import Watch

SHORT = SingleTurn(Sampling(limit=6))
PROMPTS = [question(f"say {w}", w) for w in "abcdef"]
PLAN = Plan(batch_size=2, tokens=256, length=64, seed=3)


@dataclass(frozen=True)
class Vowels:
    """The share of vowels, plus a constant; one that it cannot tell where `blind` stands in the answer."""

    constant: float = 0.0
    blind: str = ""

    def score(self, example: Example, replies: Sequence[Answer]) -> list[float | None]:
        return [
            None
            if self.blind and self.blind in r.text
            else self.constant + sum(c in "aeiou" for c in r.text) / max(len(r.text), 1)
            for r in replies
        ]


@dataclass(frozen=True)
class Always:
    """The same for every answer."""

    value: float | None = 1.0

    def score(self, example: Example, replies: Sequence[Answer]) -> list[float | None]:
        return [self.value] * len(replies)


def policy(**fields: Any) -> PolicyGradient:
    return PolicyGradient(**({"reward": Vowels(), "group": 4, "rollout": SHORT} | fields))


def first(objective: PolicyGradient, model: LanguageModel | None = None, plan: Plan = PLAN) -> Step:
    return next(iter(objective.steps(model or toy_model(), PROMPTS, plan)))


def gradient(objective: PolicyGradient, model: LanguageModel | None = None) -> torch.Tensor:
    model = model or toy_model()
    step = first(objective, model)
    total = sum(objective.loss(model, b) * (b.weight / step.weight) for b in step.batches)
    found = torch.autograd.grad(total, list(model.trainable().values()))  # type: ignore[arg-type]
    return torch.cat([g.flatten() for g in found])


def test_sampler_and_learner_agree_at_the_sampling_temperature() -> None:
    objective = policy(iterations=2, rollout=SingleTurn(Sampling(temperature=0.7, limit=6)))
    model = toy_model()
    for batch in first(objective, model).batches:
        scored = model.token_logprobs(batch, temperature=0.7)
        assert torch.allclose(scored, batch.at_targets("old"), atol=1e-4)
        assert not torch.allclose(model.token_logprobs(batch), scored, atol=1e-2)


def test_tokens_are_those_that_were_drawn_and_never_encoded_anew() -> None:
    model, objective = toy_model(), policy()
    chosen = [PROMPTS[i] for i in permutation(len(PROMPTS), 3, "examples")][:2]
    attempts = objective.attempt(model, chosen, seed_of(3, "rollout", 0))
    drawn = [a.trace.tokens for a in attempts]
    assert any(model.tokenizer(a.trace.text).input_ids != [*a.trace.tokens] for a in attempts), "ends are drawn too"
    found: list[tuple[int, ...]] = []
    for batch in first(objective, model).batches:
        for row, segments in enumerate(batch.segments):
            for segment in range(2, int(segments.max()) + 1):
                found.append(tuple(batch.tokens[row][(segments == segment) & batch.supervised[row]].tolist()))
    assert sorted(found) == sorted(drawn)


def test_groups_share_their_prompt_and_lose_nothing_by_it() -> None:
    model, objective = toy_model(), policy(average="attempts", scale="group")
    attempts = [a for a in objective.attempt(model, PROMPTS[:2], 5) if a.advantage]
    losses = []
    for packs in (True, False):
        rows = rows_of(attempts, packs, 256, False, objective.count)
        losses.append(objective.loss(model, collate(rows, packs)).item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-10)


def test_a_long_group_is_cut_into_rows_that_fit() -> None:
    model, objective = toy_model(), policy(group=8)
    attempts = objective.attempt(model, PROMPTS[:1], 5)
    rows = rows_of(attempts, True, 40, False, lambda n: float(n))
    assert len(rows) > 1
    assert all(len(row) <= 40 for row in rows)
    assert sum(row.count or 0 for row in rows) == 8


def test_the_loss_by_hand() -> None:
    model = toy_model()
    traces = [
        Trace((5, 9, 7), tokens, (True,) * len(tokens), (0.0,) * len(tokens)) for tokens in ((11, 1), (12, 13, 1))
    ]
    attempts = [Attempt(PROMPTS[0], t, a) for t, a in zip(traces, (1.0, -0.5), strict=True)]

    def logprobs(trace: Trace) -> list[float]:
        tokens = torch.tensor([[*trace.prompt, *trace.tokens]])
        chances = model.module(input_ids=tokens).logits.log_softmax(-1)[0].detach()
        return [float(chances[i - 1, tokens[0, i]]) for i in range(3, tokens.shape[1])]

    good, bad = map(logprobs, traces)
    expected = {
        "tokens": (-sum(good) + 0.5 * sum(bad)) / 5,
        "attempts": (-sum(good) / 2 + 0.5 * sum(bad) / 3) / 2,
        "constant": (-sum(good) + 0.5 * sum(bad)) / (2 * 6),
        "sums": (-sum(good) + 0.5 * sum(bad)) / 2,
    }
    for average, value in expected.items():
        objective = policy(surrogate=Reinforce(), average=average)
        for packs in (True, False):
            batch = collate(rows_of(attempts, packs, 256, False, objective.count), packs)
            assert objective.loss(model, batch).item() == pytest.approx(value, abs=1e-9)
            assert batch.weight == (5 if average == "tokens" else 2)


def test_a_step_in_parts_has_the_gradient_of_the_step_whole() -> None:
    for average in ("tokens", "attempts", "constant", "sums"):
        objective = policy(average=average, group=8)
        whole, parts = (first(objective, plan=replace(PLAN, tokens=n)) for n in (4096, 30))
        model = toy_model()
        assert len(parts.batches) > len(whole.batches)
        values = [
            sum(objective.loss(model, b).item() * b.weight for b in step.batches) / step.weight
            for step in (whole, parts)
        ]
        assert values[0] == pytest.approx(values[1], abs=1e-9)


def test_a_constant_added_to_rewards_leaves_the_gradient_as_it_is() -> None:
    assert torch.allclose(gradient(policy()), gradient(policy(reward=Vowels(constant=5.0))), atol=1e-9)


def test_advantage_modes_give_different_gradients() -> None:
    modes = [{}, {"baseline": "leave-one-out"}, {"scale": "group"}, {"baseline": "none"}, {"baseline": "batch"}]
    found = [gradient(policy(**mode)) for mode in modes]
    for i, one in enumerate(found):
        assert all(not torch.allclose(one, other, rtol=1e-3) for other in found[i + 1 :])


def test_where_all_did_as_well_nothing_is_learned_and_nothing_moves(tmp_path: Path) -> None:
    step = first(policy(reward=Always()))
    assert step.batches == ()
    assert step.notes["even"] == 1.0
    model, learner = toy_model(), Learner("toy", chain(), Recipe(AdamW(learning_rate=1e-2), batch_size=2, length=64))
    before = {name: p.detach().clone() for name, p in model.parameters().items()}
    rows: list[Any] = []
    experience = replace(toy_stream().experiences[0], objective=policy(reward=Always()))
    learn(learner, model, learner.start(model), experience, Watch(log=rows.append))
    assert all(p.equal(before[name]) for name, p in model.parameters().items())
    assert len(rows) == 6 * learner.recipe.epochs


def test_what_cannot_be_scored_is_left_out_and_counted() -> None:
    assert first(policy(reward=Always(None))).batches == ()
    assert first(policy(reward=Always(None))).notes["unscorable"] == 1.0
    objective, model = policy(reward=Vowels(blind="a"), group=8), toy_model()
    attempts = objective.attempt(model, PROMPTS, 1)
    blind = [a for a in attempts if "a" in a.trace.text]
    assert blind
    assert all(a.advantage is None and a.trace.reward is None for a in blind)
    learned = sum(int(attempts_of(b).max()) + 1 for b in first(objective, plan=replace(PLAN, batch_size=6)).batches)
    assert 0 < learned < 48


def test_a_vote_in_which_nobody_answers_is_skipped_and_counted() -> None:
    step = first(policy(reward=MajorityVote(extract=Tagged())))
    assert step.batches == ()
    assert step.notes["unscorable"] == step.notes["unanswered"] == 1.0
    assert "reward" not in step.notes


def test_an_attempt_that_did_as_well_as_its_group_is_counted_among_it() -> None:
    @dataclass(frozen=True)
    class Steps:
        """0, 1/2, 1: the one in the middle has an advantage of exactly 0."""

        def score(self, example: Example, replies: Sequence[Answer]) -> list[float | None]:
            return [0.0, 0.5, 1.0]

    for average in ("attempts", "tokens"):
        step = first(policy(reward=Steps(), group=3, average=average))
        assert sum(int(attempts_of(b).max()) + 1 for b in step.batches) == 6


@dataclass(frozen=True)
class Lucky:
    """1 for one attempt at one prompt, 0 for all others."""

    prompt: str = "a"

    def score(self, example: Example, replies: Sequence[Answer]) -> list[float | None]:
        return [float(i == 0 and example.response == self.prompt) for i in range(len(replies))]


def test_without_a_baseline_what_earned_nothing_is_in_the_mean() -> None:
    plan = Plan(batch_size=4, tokens=4096)
    for group in (4, 1):
        step = first(
            policy(reward=Lucky(), group=group, baseline="none", surrogate=Reinforce(), average="sums"), plan=plan
        )
        assert step.weight == 4 * group
        assert sum(int(attempts_of(b).max()) + 1 for b in step.batches) == 4 * group


@pytest.mark.parametrize("average", ["attempts", "sums", "constant"])
def test_groups_that_teach_nothing_count_in_a_mean_over_attempts(average: str) -> None:
    plan = Plan(batch_size=4, tokens=4096)
    objective, model = policy(reward=Lucky(), group=4, average=average, surrogate=Reinforce()), toy_model()
    step = first(objective, model, plan)
    assert sum(int(attempts_of(b).max()) + 1 for b in step.batches) == 4  # of one group alone
    assert step.weight == pytest.approx(16)
    (batch,) = step.batches
    alone = objective.loss(model, replace(batch, counts=torch.tensor([4.0])))
    assert objective.loss(model, batch).item() == pytest.approx(alone.item() / 4, abs=1e-9)


def test_prompts_that_are_drawn_again_are_compared_with_the_whole_step() -> None:
    @dataclass(frozen=True)
    class Apart:
        """0, 1 at "b", 0, 10 at "c", nothing elsewhere."""

        def score(self, example: Example, replies: Sequence[Answer]) -> list[float | None]:
            return [{"b": 1.0, "c": 10.0}.get(example.response, 0.0) * i for i in range(len(replies))]

    objective = policy(reward=Apart(), group=2, scale="batch", retries=6)
    step = first(objective, plan=Plan(batch_size=2, tokens=4096))  # "a" and "b": another takes the place of "a"
    found = {t["task"]: t["advantage"] for t in step.traces if t["advantage"] and t["advantage"] > 0}
    assert found[PROMPTS[2].key] == pytest.approx(10 * found[PROMPTS[1].key])


def test_the_prompt_has_to_be_in_the_key_where_attempts_at_a_task_differ_in_it() -> None:
    @dataclass(frozen=True)
    class Two:
        """Half of the attempts are asked politely, and do better whatever they say."""

        sampling: ClassVar[Sampling] = Sampling(limit=2)

        def run(self, model: LanguageModel, examples: Sequence[Example], n: int, seed: int) -> list[list[Trace]]:
            prompts = [(5, 9), (5, 9, 7)]
            made = [Trace(prompts[i % 2], (11,), (True,), (0.0,), "ab"[i % 2], True, "t", attempt=i) for i in range(n)]
            return [made for _ in examples]

    @dataclass(frozen=True)
    class Polite:
        def score(self, example: Example, replies: Sequence[Answer]) -> list[float | None]:
            return [float(r.text == "b") for r in replies]

    model = toy_model()
    for key, expected in ((("task",), [-0.5, 0.5] * 2), (("task", "prompt"), [0.0] * 4)):
        found = policy(reward=Polite(), rollout=Two(), key=key).attempt(model, PROMPTS[:1], 0)
        assert [a.advantage for a in found] == expected


def test_empty_answers_and_single_ones_are_told_apart_from_wrong_ones() -> None:
    trace = Trace((5,), (1,), (True,), (0.0,))
    told = [("", 0.0, "a"), ("b", 0.0, "a"), ("b", 1.0, "b"), ("b", None, "b")]
    attempts = [Attempt(PROMPTS[0], replace(trace, text=t, reward=r, task=k)) for t, r, k in told]
    notes = noted(attempts)
    assert (notes["empty"], notes["unscorable"], notes["single"], notes["even"]) == (0.25, 0.25, 0.5, 1.0)


def test_truncated_attempts_are_treated_as_declared() -> None:
    keep, mask = policy(group=8), policy(group=8, truncated="mask")
    model = toy_model()
    kept, masked = (sum(len(b.examples) for b in first(o, model).batches) for o in (keep, mask))
    assert first(keep, model).notes["truncated"] > 0
    assert masked < kept


def test_a_vote_of_all_and_a_lesson_of_some() -> None:
    seen: list[int] = []

    @dataclass(frozen=True)
    class Counting:
        def score(self, example: Example, replies: Sequence[Answer]) -> list[float | None]:
            seen.append(len(replies))
            return [float(i) for i in range(len(replies))]

    attempts = policy(reward=Counting(), group=6, learned=4).attempt(toy_model(), PROMPTS[:1], 0)
    assert seen == [6]
    assert [a.advantage for a in attempts] == [-1.5, -0.5, 0.5, 1.5]


def test_what_the_environment_gave_counts_beside_what_the_reward_finds_of_an_attempts_last_answer() -> None:
    """Attempt 0 has two traces, worth 1 and 2; attempt 1 one that nobody scored; attempt 2 broke."""

    def trace(attempt: int, text: str, reward: float | None, error: str = "") -> Trace:
        return Trace((5,), (7,), (True,), (-0.5,), text, reward=reward, attempt=attempt, error=error)

    traces = [trace(0, "bb", 1.0), trace(0, "ab", 2.0), trace(1, "aa", None), trace(2, "aa", None, "it broke")]
    assert judged(PROMPTS[0], traces, None) == traces
    assert [t.reward for t in judged(PROMPTS[0], traces, Vowels())] == [1.5, 2.5, 1.0, None]
    assert [t.reward for t in judged(PROMPTS[0], traces, Vowels(blind="b"))] == [None, None, 1.0, None]
    lengths: list[int] = []

    @dataclass(frozen=True)
    class Measured:
        def score(self, example: Example, replies: Sequence[Answer]) -> list[float | None]:
            lengths.extend(r.tokens for r in replies)
            return [0.0] * len(replies)

    assert [t.reward for t in judged(PROMPTS[0], traces, Measured())] == [1.0, 2.0, 0.0, None]
    assert lengths == [2, 1]  # of both answers of attempt 0, and the one of attempt 1
    notes = noted([Attempt(PROMPTS[0], replace(t, notes={"turns": 2.0})) for t in traces[1:]])
    assert (notes["broken"], notes["turns"], notes["unscorable"]) == (pytest.approx(1 / 3), 2.0, pytest.approx(2 / 3))


@dataclass(frozen=True)
class Played:
    """Attempts of two traces each, whose environment gives the attempt's number."""

    sampling: Sampling = SHORT.sampling
    numbered: bool = True

    def run(self, model: LanguageModel, examples: Sequence[Example], n: int, seed: int) -> list[list[Trace]]:
        groups = SHORT.run(model, examples, n, seed)
        return [
            [
                replace(t, turn=turn, reward=float(t.attempt), attempt=t.attempt if self.numbered else 0)
                for t in group
                for turn in (1, 2)
            ]
            for group in groups
        ]


def test_without_a_reward_the_rollouts_own_is_learned_from_attempt_by_attempt() -> None:
    attempts = policy(reward=None, rollout=Played(), learned=3).attempt(toy_model(), PROMPTS[:1], 0)
    assert [a.trace.reward for a in attempts] == [0, 0, 1, 1, 2, 2]
    assert [a.advantage for a in attempts] == [-1, -1, 0, 0, 1, 1]
    assert policy(reward=None).attempt(toy_model(), PROMPTS[:1], 0)[0].advantage is None
    with pytest.raises(ModelError, match="numbered 1 attempts, not 4"):
        policy(rollout=Played(numbered=False)).attempt(toy_model(), PROMPTS[:1], 0)


def test_other_prompts_take_the_place_of_those_that_teach_nothing() -> None:
    @dataclass(frozen=True)
    class OnlyLate:
        """Tells answers apart at the last three prompts alone."""

        def score(self, example: Example, replies: Sequence[Answer]) -> list[float | None]:
            return [float(i) if example.response in "def" else 0.0 for i in range(len(replies))]

    plan = Plan(batch_size=3, tokens=4096, seed=None)
    alone = first(policy(reward=OnlyLate()), plan=plan)
    again = first(policy(reward=OnlyLate(), retries=4), plan=plan)
    assert alone.batches == ()
    assert {e.response for b in again.batches for e in b.examples} == {"d", "e", "f"}
    assert again.notes["even"] > 0


def test_the_grouping_key_decides_who_is_compared() -> None:
    model = toy_model()
    by_task = policy().attempt(model, PROMPTS[:2], 0)
    together = policy(key=()).attempt(model, PROMPTS[:2], 0)
    rewards = [a.trace.reward for a in together]
    mean = sum(r for r in rewards if r is not None) / 8
    assert [a.advantage for a in together] == pytest.approx([r - mean for r in rewards if r is not None])
    assert [a.advantage for a in by_task] != [a.advantage for a in together]
    with pytest.raises(ConfigError, match="attempts do not know"):
        policy(key=("colour",))


def test_steps_from_the_same_attempts_cannot_be_paused_between() -> None:
    steps = list(policy(iterations=3).steps(toy_model(), PROMPTS, PLAN))
    assert [s.pausable for s in steps[:3]] == [False, False, True]
    assert steps[0].batches[0].tokens.equal(steps[2].batches[0].tokens)
    assert steps[0].traces
    assert not steps[1].traces
    later = list(policy(iterations=3).steps(toy_model(), PROMPTS, replace(PLAN, start=3)))
    assert later[0].batches[0].tokens.equal(steps[3].batches[0].tokens)


def test_ratios_are_taken_to_when_the_tokens_were_drawn() -> None:
    objective = policy(iterations=2, surrogate=Clip(0.0, 0.0), average="tokens")
    model = toy_model()
    batch = first(objective, model).batches[0]
    own = Step((batch,), 1.0, {"drawn": 3.0})
    assert own.noted() == {"drawn": 3.0}, "nothing is told before there is a loss"
    objective.loss(model, batch)
    assert own.noted() | {"clipped": 0.0} == {"drawn": 3.0, "kl_old": pytest.approx(0, abs=1e-7), "clipped": 0.0}
    moved = replace(batch, values=batch.values | {"old": batch.values["old"] - 0.5})  # all have become more probable
    advantage = batch.at_targets("advantage")
    rho = math.exp(0.5)
    expected = torch.where(advantage > 0, -advantage, -rho * advantage).mean()
    assert objective.loss(model, moved).item() == pytest.approx(float(expected), abs=1e-4)
    assert own.noted()["kl_old"] == pytest.approx(rho - 1 - 0.5, abs=1e-4)
    assert own.noted()["clipped"] == pytest.approx(float((advantage > 0).sum() / (advantage != 0).sum()))


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_the_divergence_from_a_reference_by_hand(estimator: Any) -> None:
    objective = policy(kl=0.3, estimator=estimator, surrogate=Reinforce())
    model = toy_model()
    batch = first(replace(objective, kl=0.0), model).batches[0]
    lp = model.token_logprobs(batch)
    batch = replace(batch, values=batch.values | {"reference": placed(batch, lp + 0.2)})
    advantage = batch.at_targets("advantage")
    added = {
        "k1": -(0.3 * 0.2) * lp,  # the advantage grows by 0.3 * 0.2, since the reference finds the tokens more probable
        "k2": torch.full_like(lp, 0.3 * 0.02),
        "k3": torch.full_like(lp, 0.3 * (math.exp(0.2) - 0.2 - 1)),
    }[estimator]
    assert objective.loss(model, batch).item() == pytest.approx((-advantage * lp + added).mean().item(), abs=1e-9)


def placed(batch: Batch, values: torch.Tensor) -> torch.Tensor:
    found = torch.zeros(batch.supervised.shape, dtype=torch.float64)
    found[batch.supervised] = values.detach()
    return found


@dataclass(frozen=True)
class Opening(Learner):
    """A learner of the toy."""

    def open(self) -> LanguageModel:
        return toy_model()


@dataclass(frozen=True)
class Watched:
    """An objective that notes how far the model is from its reference: the mean of d^2 in each step."""

    objective: PolicyGradient
    found: list[float]

    @property
    def references(self) -> Any:
        return self.objective.references

    def steps(self, model: LanguageModel, examples: Sequence[Example], plan: Plan) -> Any:
        for step in self.objective.steps(model, examples, plan):
            apart = [model.token_logprobs(b).detach() - b.at_targets("reference") for b in step.batches]
            self.found.append(float(torch.cat(apart).square().mean()))
            yield step

    def loss(self, model: LanguageModel, batch: Batch) -> torch.Tensor:
        return self.objective.loss(model, batch)


def test_references_are_where_they_are_said_to_be() -> None:
    letters, digits = (replace(e, train=e.train[:4]) for e in toy_stream() if e.name != "cats")
    learner = Opening("toy", chain(LoRA(rank=2)), Recipe(AdamW(learning_rate=3e-2), batch_size=2, length=64))
    model = toy_model()
    state = learn(learner, model, learner.start(model), letters)
    apart: dict[str, list[float]] = {}
    for name in ("start", "base", "ema"):
        objective = Watched(policy(kl=0.1, reference=name, decay=0.5), [])
        live = learner.restore(toy_model(), state)
        learn(learner, live, state, replace(digits, objective=objective))  # type: ignore[arg-type]
        apart[name] = objective.found
    assert apart["start"][0] == pytest.approx(0, abs=1e-12)
    assert apart["ema"][0] == pytest.approx(0, abs=1e-12)
    assert apart["base"][0] > 1e-3
    assert apart["start"][-1] > 1.5 * apart["ema"][-1] > 0


def test_a_run_that_was_stopped_ends_as_one_that_was_not(tmp_path: Path) -> None:
    objective = policy(kl=0.1, reference="ema", decay=0.5, iterations=2, group=6)
    experience = replace(toy_stream(8).experiences[0], objective=objective)
    learner = Opening("toy", chain(LoRA(rank=2)), Recipe(AdamW(learning_rate=3e-2), batch_size=2, length=64, epochs=2))
    straight, stopped = toy_model(), toy_model()
    whole = learn(learner, straight, learner.start(straight), experience)
    asked = iter([False, True])
    with pytest.raises(Interrupted, match="after 4 steps"):
        learn(
            learner,
            stopped,
            learner.start(stopped),
            experience,
            Watch(tmp_path / "c", stop=lambda: next(asked)),
        )
    fresh = toy_model()
    resumed = learn(learner, fresh, learner.start(fresh), experience, Watch(tmp_path / "c"))
    assert whole.weights.keys() == resumed.weights.keys()
    assert all(w.equal(resumed.weights[name]) for name, w in whole.weights.items())


def test_documents_ask_for_nothing() -> None:
    with pytest.raises(DataError, match="is a document"):
        list(policy().steps(toy_model(), [Example(text="the cat")], PLAN))


@pytest.mark.parametrize(
    "fields", [{"group": 0}, {"kl": -1.0}, {"decay": 2.0}, {"iterations": 0}, {"learned": 0}, {"retries": -1}]
)
def test_numbers_without_a_meaning_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="counts are 1 at least"):
        policy(**fields)


@pytest.mark.parametrize("name", ["baseline", "scale", "average", "estimator", "reference", "truncated"])
def test_a_choice_that_there_is_not_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}='mean of all': choose among"):
        policy(**{name: "mean of all"})


def test_a_metric_is_refused_as_the_reward_and_how_it_becomes_one_is_said() -> None:
    with pytest.raises(ConfigError, match=r"reward=RougeL\(.*\): a metric is no reward; .* as Scored\(RougeL\("):
        policy(reward=RougeL())
    with pytest.raises(ConfigError, match="reward=TokenLikelihood"):
        policy(reward=TokenLikelihood())
    assert policy(reward=Scored(RougeL())).reward == Scored(RougeL())


@pytest.mark.parametrize("sampling", [Sampling(temperature=0), Sampling(top_p=0.9)])
def test_what_no_policy_gradient_can_use_is_refused(sampling: Sampling) -> None:
    with pytest.raises(ConfigError, match="temperature above 0"):
        SingleTurn(sampling)


def stream_of(reward: Any = None) -> Stream:
    stream = toy_stream(8)
    objective = policy(reward=reward or Vowels(), group=6)
    names = ("letters", "digits")
    return replace(stream, experiences=tuple(replace(e, objective=objective) for e in stream if e.name in names))


def test_a_reward_is_learned_and_kept_by_any_method(tmp_path: Path) -> None:
    recipe = Recipe(AdamW(learning_rate=1e-2), batch_size=4, length=64, epochs=8)
    learner = Learner(str(toy_folder(tmp_path / "toy")), chain(Replay(fraction=0.5)), recipe)
    made = run(learner, stream_of(), tmp_path / "run", Settings(suite=()))
    rewards = [row["notes"]["reward"] for row in made.files.metrics() if row["experience"] == "letters"]
    assert sum(rewards[-4:]) / 4 > sum(rewards[:4]) / 4 + 0.1
    traces = made.files.traces()
    assert {"experience", "step", "text", "reward", "advantage", "finished"} <= traces[0].keys()
    digits = [row["notes"] for row in made.files.metrics() if row["experience"] == "digits"]
    assert any("reward of letters" in notes for notes in digits)  # replayed prompts are told apart
