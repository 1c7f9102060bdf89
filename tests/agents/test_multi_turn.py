"""Attempts in turns on the toy: what is kept of them, what is learned from, and what ends or breaks them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from everlearn.agents.environments import Env, Observation
from everlearn.agents.multi_turn import MultiTurn, credited
from everlearn.config import dump, parse, restore, show
from everlearn.data.packing import collate
from everlearn.data.render import end_tokens, render_between
from everlearn.errors import ConfigError, DataError, ModelError
from everlearn.examples import Example, Message, Plan
from everlearn.fold import Settings, run
from everlearn.learner import Learner
from everlearn.method import chain
from everlearn.models.language_model import LanguageModel
from everlearn.models.optim import AdamW, Recipe
from everlearn.models.sampling import Sampling, sample
from everlearn.objectives.groups import Attempt, rows_of
from everlearn.objectives.policy_gradient import PolicyGradient
from everlearn.objectives.rollouts import SingleTurn
from everlearn.objectives.surrogates import Reinforce
from everlearn.rewards.reward import Answer
from everlearn.testing.toys import TEMPLATE, question, toy_folder, toy_model, toy_stream
from everlearn.traces import Trace
from everlearn.types import Stream

PROMPTS = [question(f"think of {w}", w) for w in "abc"]
SHORT = Sampling(temperature=0.7, limit=5)
REASONING = (  # leaves out of earlier answers what stands before their last "e"
    "{% for m in messages %}{{ '<|' + m.role + '|>' + (m.content if m.role == 'user' or loop.last else "
    "m.content.split('e')[-1]) + '<|end|>' }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


class Guess:
    """A letter of three that the seed decides is to be guessed, with hints; each answer earns its share of vowels."""

    def reset(self, example: Example, seed: int) -> Observation:
        self.letter = "fgh"[seed % 3]
        return Observation((*example.prompt, Message("user", "guess a letter.")))

    def step(self, text: str) -> Observation:
        reward = sum(c in "aeiou" for c in text) / 8
        done = self.letter in text
        return Observation("yes." if done else f"no, not {text[:1]}.", reward, done, {"wrong": float(not done)})


class Silent:
    """Says the example's own prompt alone, and is done with the first answer, which it does not score."""

    def reset(self, example: Example, seed: int) -> str:
        return ""

    def step(self, text: str) -> Observation:
        return Observation(done=True)


class Endless:
    """Goes on for ever."""

    def reset(self, example: Example, seed: int) -> str:
        return "begin"

    def step(self, text: str) -> str:
        return "go on"


class Fragile:
    """Raises at the example about b when it is reset, and at the second answer to the one about c."""

    def reset(self, example: Example, seed: int) -> Observation:
        self.response, self.turns = example.response, 0
        if self.response == "b":
            raise KeyError("no such b")
        return Observation("begin")

    def step(self, text: str) -> Observation:
        self.turns += 1
        if self.response == "c" and self.turns == 2:
            raise ZeroDivisionError
        return Observation("go on", reward=float(len(text)))


class Whole(Endless):
    """Scores the attempt when it is over, by its answers; one about c cannot be scored."""

    def reset(self, example: Example, seed: int) -> str:
        self.response, self.answers = example.response, 0
        return "begin"

    def step(self, text: str) -> str:
        self.answers += 1
        return "go on"

    def score(self) -> float | None:
        if self.response == "b":
            raise LookupError("lost count")
        return float(self.answers) if self.response == "a" else None


class Forgetful(Endless):
    """Forgets to return what it says at the example about b, and scores the one about c by no number."""

    def reset(self, example: Example, seed: int) -> str:
        self.response = example.response
        return "begin"

    def step(self, text: str) -> str:
        return None if self.response == "b" else "half \ud800 a word"  # type: ignore[return-value]

    def score(self) -> float | None:
        return float("nan") if self.response == "c" else 1.0


def talk(env: Callable[[], Env] = Guess, **fields: Any) -> MultiTurn:
    return MultiTurn(env, **({"sampling": SHORT, "turns": 3, "cut": "close"} | fields))


def play(rollout: MultiTurn, model: LanguageModel | None = None, n: int = 4, seed: int = 0) -> list[list[Trace]]:
    return rollout.run(model or toy_model(), PROMPTS, n, seed)


def templated(template: str) -> LanguageModel:
    model = toy_model()
    model.tokenizer.chat_template = template
    return model


def words(model: LanguageModel, tokens: Sequence[int]) -> str:
    return "".join(model.tokenizer.convert_ids_to_tokens(list(tokens)))


def rounded(traces: Sequence[Trace]) -> list[Trace]:
    """Without the rounding of sums in another order."""
    return [replace(t, logprobs=tuple(round(p, 9) for p in t.logprobs)) for t in traces]


def runs(trace: Trace) -> list[tuple[int, ...]]:
    """The drawn tokens of each answer."""
    found: list[tuple[int, ...]] = []
    for i, (token, mine) in enumerate(zip(trace.tokens, trace.drawn, strict=True)):
        if mine:
            found = [*found, ()] if i == 0 or not trace.drawn[i - 1] else found
            found[-1] += (token,)
    return found


def test_one_turn_is_an_attempt_of_a_single_turn() -> None:
    alone, model = SingleTurn(SHORT).run(toy_model(), PROMPTS, 3, 5), toy_model()
    found = talk(Silent).run(model, PROMPTS, 3, 5)
    assert [[replace(t, notes={}, messages=()) for t in group] for group in found] == alone


def test_an_example_without_an_answer_is_asked_whole() -> None:
    asked = (Message("user", "think"), Message("assistant", "of what?"), Message("user", "of a"))
    examples = [Example(messages=asked), Example(messages=(*asked, Message("assistant", "b")))]
    found = talk(Silent).run(toy_model(), examples, 1, 0)
    assert [trace.messages[:-1] for (trace,) in found] == [asked, asked]
    assert found[0][0].prompt == found[1][0].prompt == SingleTurn(SHORT).run(toy_model(), examples, 1, 0)[0][0].prompt


def test_an_attempt_is_drawn_turn_by_turn_from_its_tokens_as_they_are() -> None:
    """Each attempt again by hand: the tokens so far, a completion of them, and the template's between two answers."""
    model, numbers = toy_model(), range(4)
    for example, group in zip(PROMPTS, play(talk()), strict=True):
        for number, trace in zip(numbers, group, strict=True):
            context, said = list(trace.prompt), list(trace.messages[:2])
            for i, drawn in enumerate(answers := runs(trace)):
                completion = sample(model, [context], replace(SHORT, seed=0), number + 1)[0][number]
                assert completion.tokens == drawn
                said += trace.messages[len(said) : len(said) + 2]
                if i < len(answers) - 1:
                    between = render_between(model.tokenizer, said)
                    context += [*drawn, *([] if completion.finished else [1]), *(between or ())]
            assert len(answers) == trace.notes["turns"]
            assert trace.task == example.key


def test_no_text_is_encoded_anew() -> None:
    """Control tokens that the policy drew are not in its text, so that its text has other tokens; they are kept."""
    model, unlike = toy_model(), 0
    for trace in (t for group in play(talk(), model, 8) for t in group):
        for drawn in runs(trace):
            text = model.tokenizer.decode(drawn, skip_special_tokens=True)
            again = tuple(model.tokenizer(text, add_special_tokens=False).input_ids)
            unlike += again != tuple(t for t in drawn if t != 1)
    assert unlike > 5


@pytest.mark.parametrize("packs", [True, False])
def test_sampler_and_scorer_agree_over_all_turns(packs: bool) -> None:
    model = toy_model()
    for trace in (t for group in play(talk(), model) for t in group):
        batch = collate(rows_of([Attempt(PROMPTS[0], trace, 1.0)], packs, 4096, False, float), packs)
        scored = model.token_logprobs(batch, temperature=0.7)
        expected = torch.tensor([p for p, mine in zip(trace.logprobs, trace.drawn, strict=True) if mine])
        assert torch.allclose(scored.float(), expected, atol=1e-4)
        assert trace.length == len(expected)


def test_what_the_environment_says_is_read_and_not_learned() -> None:
    """The gradient is that of the drawn tokens' log-probabilities, by the module itself."""
    model = toy_model()
    trace = max((t for group in play(talk(), model) for t in group), key=lambda t: t.notes["turns"])
    assert trace.notes["turns"] == 3
    assert not all(trace.drawn)
    objective = PolicyGradient(rollout=talk(), surrogate=Reinforce(), iterations=2)
    weights = list(model.trainable().values())

    def gradient(trace: Trace) -> list[torch.Tensor]:
        batch = collate(rows_of([Attempt(PROMPTS[0], trace, 2.0)], True, 4096, True, objective.count), True)
        return list(torch.autograd.grad(objective.loss(model, batch), weights))

    whole = torch.tensor([[*trace.prompt, *trace.tokens]])
    chances = (model.module(input_ids=whole).logits / 0.7).log_softmax(-1)[0]
    places = [len(trace.prompt) + i for i, mine in enumerate(trace.drawn) if mine]
    loss = -2.0 * torch.stack([chances[p - 1, whole[0, p]] for p in places]).mean()
    pairs = zip(gradient(trace), torch.autograd.grad(loss, weights), strict=True)
    assert all(torch.allclose(mine, theirs, atol=1e-10) for mine, theirs in pairs)
    other = tuple(p if mine else -9.0 for p, mine in zip(trace.logprobs, trace.drawn, strict=True))
    pairs = zip(gradient(trace), gradient(replace(trace, logprobs=other)), strict=True)
    assert all(mine.equal(theirs) for mine, theirs in pairs)


def test_an_attempt_is_the_same_by_seed_and_whoever_stands_beside_it() -> None:
    found = play(talk())
    assert found == play(talk())
    assert found != play(talk(), seed=1)
    assert rounded(found[1][:2]) == rounded(talk().run(toy_model(), [PROMPTS[1]], 2, 0)[0])
    assert len({t.tokens for t in found[1]}) > 1


def test_all_attempts_at_a_task_are_made_in_the_same_world() -> None:
    seeds: dict[str, set[int]] = {}

    class Seeded(Silent):
        def reset(self, example: Example, seed: int) -> str:
            seeds.setdefault(example.key, set()).add(seed)
            return ""

    play(talk(Seeded))
    assert [len(s) for s in seeds.values()] == [1, 1, 1]
    assert len(set.union(*seeds.values())) == 3
    first = {key: set(s) for key, s in seeds.items()}
    play(talk(Seeded), seed=1)
    assert all(len(seeds[key]) == 2 for key in first)


def test_a_trace_a_turn_holds_what_the_whole_holds() -> None:
    model = toy_model()
    whole, turns = play(talk(), model), play(talk(trace="turn"), model)
    for group, apart in zip(whole, turns, strict=True):
        for trace in group:
            mine = [t for t in apart if t.attempt == trace.attempt]
            assert [t.turn for t in mine] == list(range(1, len(mine) + 1))
            assert [t.tokens for t in mine] == runs(trace)
            assert all(all(t.drawn) for t in mine)
            assert (*mine[-1].prompt, *mine[-1].tokens) == (*trace.prompt, *trace.tokens)
            assert {t.reward for t in mine} == {trace.reward}
            assert mine[-1].messages == trace.messages
            assert not any(t.messages or t.notes for t in mine[:-1])


def test_turns_can_be_compared_with_the_same_turns_of_others() -> None:
    objective = PolicyGradient(group=6, rollout=talk(trace="turn", credit="own"), key=("task", "turn"))
    attempts = objective.attempt(toy_model(), PROMPTS[:1], 0)
    for turn in (1, 2, 3):
        mine = [a for a in attempts if a.trace.turn == turn]
        mean = sum(a.trace.reward or 0.0 for a in mine) / len(mine)
        expected = [(a.trace.reward or 0.0) - mean for a in mine]
        assert [a.advantage for a in mine] == pytest.approx(expected, abs=1e-12)
        assert len(mine) > 1


def test_the_reward_of_a_turn_stands_at_that_turns_own_tokens() -> None:
    objective = PolicyGradient(group=6, rollout=talk(trace="turn", credit="own"), key=("task", "turn"))
    model = toy_model()
    attempts = [a for a in objective.attempt(model, PROMPTS, 0) if a.advantage]
    batch = collate(rows_of(attempts, False, 4096, False, objective.count), False)
    for row, attempt in enumerate(attempts):
        places = batch.values["advantage"][row].nonzero().flatten().tolist()
        start = len(attempt.trace.prompt)
        assert places == list(range(start, start + len(attempt.trace.tokens)))
        assert batch.values["advantage"][row, places].tolist() == pytest.approx([attempt.advantage] * len(places))


@pytest.mark.parametrize(
    ("credit", "expected"),
    [("sum", [6.0, 6.0, 6.0]), ("last", [3.0, 3.0, 3.0]), ("own", [3.0, None, 3.0]), ("onward", [6.0, 3.0, 3.0])],
)
def test_credit_by_hand(credit: Any, expected: list[float | None]) -> None:
    """Three traces: answers worth 1 and 2, one without a reward, and one worth 3."""
    assert credited([[1.0, 2.0], [], [3.0]], credit) == expected
    assert credited([[], []], credit) == [None, None]


def test_what_no_answer_was_scored_is_left_to_a_reward() -> None:
    @dataclass(frozen=True)
    class Length:
        def score(self, example: Example, replies: Sequence[Answer]) -> list[float | None]:
            return [float(len(r.text)) for r in replies]

    plain, judged = (PolicyGradient(reward, 4, talk(Silent)) for reward in (None, Length()))
    model = toy_model()
    assert {a.trace.reward for a in plain.attempt(model, PROMPTS, 0)} == {None}
    assert all(a.trace.reward == len(a.trace.text) for a in judged.attempt(model, PROMPTS, 0))
    both = PolicyGradient(Length(), 4, talk()).attempt(model, PROMPTS, 0)
    own = [t.reward or 0.0 for group in play(talk(), model) for t in group]
    assert [a.trace.reward for a in both] == [r + len(a.trace.text) for r, a in zip(own, both, strict=True)]


def test_a_trace_ends_with_what_the_policy_drew_last() -> None:
    for trace in (t for group in play(talk(Endless, tokens=60, turns=9)) for t in group):
        assert trace.drawn[-1]
        assert not trace.finished
        assert len(trace.prompt) + len(trace.tokens) <= 60


def test_attempts_end_at_their_limits_and_say_so() -> None:
    turns = [t for group in play(talk(Endless, turns=2)) for t in group]
    assert {t.notes["turns"] for t in turns} == {2.0}
    assert not any(t.finished for t in turns)
    ended = [t for group in play(talk(Endless, cut="end", turns=9)) for t in group]
    assert all(len(runs(t)[-1]) == 5 and runs(t)[-1][-1] != 1 for t in ended if t.notes["turns"] < 9)
    assert any(t.notes["turns"] < 9 for t in ended)
    small = toy_model()
    small.module.config.max_position_embeddings = 100
    bounded = [t for group in play(talk(Endless, turns=99), small, 1) for t in group]
    assert all(80 < len(t.prompt) + len(t.tokens) <= 100 for t in bounded)


def test_an_answer_that_was_cut_is_judged_and_closed_by_a_token_that_was_not_drawn() -> None:
    model = toy_model()
    cut = [t for group in play(talk(turns=2), model) for t in group if len(runs(t)) == 2 and runs(t)[0][-1] != 1]
    assert cut
    for trace in cut:
        place = len(runs(trace)[0])
        assert trace.tokens[place] == 1
        assert not trace.drawn[place]


def test_masked_truncation_leaves_out_all_of_a_cut_attempt() -> None:
    rollout = talk(trace="turn", credit="own")
    steps = [
        next(iter(PolicyGradient(group=6, rollout=rollout, truncated=kind).steps(toy_model(), PROMPTS, Plan(3))))
        for kind in ("keep", "mask")
    ]
    kept, masked = (sum(int(b.supervised.sum()) for b in s.batches) for s in steps)
    assert steps[0].notes["truncated"] > 0
    assert masked < kept


def test_where_the_template_rewrites_what_was_said_a_trace_begins_anew() -> None:
    model = templated(REASONING)
    groups = play(talk(Endless), model, 8)
    broken = [[t for t in group if t.attempt == i] for group in groups for i in range(8)]
    broken = [traces for traces in broken if len(traces) > 1]
    assert broken
    for first, second, *_ in broken:
        thought = first.text.split("e")[-1]
        assert "e" in first.text
        assert second.drawn[0]
        assert words(model, second.prompt).endswith(f"<|assistant|>{thought}<|end|><|user|>go on<|end|><|assistant|>")
        assert first.reward == second.reward
        assert first.turn == second.turn == 0
        batch = collate(rows_of([Attempt(PROMPTS[0], second, 1.0)], False, 4096, False, float), False)
        scored = model.token_logprobs(batch, temperature=0.7).tolist()
        assert scored == pytest.approx([p for p, d in zip(second.logprobs, second.drawn, strict=True) if d], abs=1e-4)


def test_an_environment_that_raises_breaks_its_own_attempt_alone() -> None:
    examples = [replace(e, source=f"games.jsonl:{i}") for i, e in enumerate(PROMPTS)]
    well, early, late = talk(Fragile).run(toy_model(), examples, 2, 0)
    assert all(t.reward is not None and not t.error for t in well)
    assert [t.error for t in early] == ["games.jsonl:1, turn 0: KeyError: 'no such b'"] * 2
    assert [t.error for t in late] == ["games.jsonl:2, turn 2: ZeroDivisionError"] * 2
    assert all(t.reward is None and t.length == 0 for t in early)
    assert all(t.reward is None and t.notes["turns"] == 2 for t in late)
    assert rounded(well) == rounded(talk(Fragile).run(toy_model(), examples[:1], 2, 0)[0])
    step = next(iter(PolicyGradient(group=2, rollout=talk(Fragile)).steps(toy_model(), examples, Plan(3))))
    assert step.notes["broken"] == pytest.approx(2 / 3)
    assert step.notes["unscorable"] == pytest.approx(2 / 3)
    assert sum(row["error"].startswith("games.jsonl:1") for row in step.traces if "error" in row) == 2


def test_an_environment_that_says_or_scores_what_is_none_breaks_its_own_attempt_alone() -> None:
    fine, forgot, lost = (trace for (trace,) in play(talk(Forgetful), n=1))
    assert (fine.reward, fine.error) == (1.0, "")
    assert "half ? a word" in [m.content for m in fine.messages]
    assert forgot.reward is lost.reward is None
    assert forgot.error == "toy, turn 1: DataError: an environment said None: it says a text, or a tuple of messages."
    assert lost.error.startswith("toy, turn 3: DataError: an environment gave the reward nan")


@pytest.mark.parametrize("tokens", [None, 45])
def test_an_environment_may_score_the_whole_when_it_is_over(tokens: int | None) -> None:
    """A limit of turns ends the attempts, or one of tokens."""
    groups = play(talk(Whole, trace="turn", credit="own", tokens=tokens), n=2)
    for i in range(2):
        mine, broken, untold = ([t for t in group if t.attempt == i] for group in groups)
        assert [t.reward for t in mine] == [*[None] * (len(mine) - 1), len(mine)]
        assert {t.error for t in broken} == {f"toy, turn {len(broken)}: LookupError: lost count"}
        assert {t.reward for t in untold} == {None}


def test_what_was_said_can_be_read() -> None:
    row = play(talk())[0][0].row(0.5)
    assert row["messages"][:2] == [
        {"role": "user", "content": "think of a"},
        {"role": "user", "content": "guess a letter."},
    ]
    assert [m["role"] for m in row["messages"][2:4]] == ["assistant", "user"]
    assert row["messages"][3]["content"] in ("yes.", f"no, not {row['messages'][2]['content'][:1]}.")
    assert row["notes"]["turns"] == sum(m["role"] == "assistant" for m in row["messages"])
    assert row["notes"]["wrong"] in (row["notes"]["turns"], row["notes"]["turns"] - 1)


def test_what_cannot_be_played_is_refused_in_words() -> None:
    with pytest.raises(ModelError, match="leaves no room for an answer within 10"):
        play(talk(tokens=10))
    with pytest.raises(ConfigError, match="leave room for one turn"):
        talk(turns=0)
    for name, choices in {"trace": "turn", "credit": "onward", "cut": "close"}.items():
        with pytest.raises(ConfigError, match=f"{name}='none': choose among .*'{choices}'"):
            talk(**{name: "none"})
    with pytest.raises(ConfigError, match="temperature above 0"):
        talk(sampling=Sampling(temperature=0))
    with pytest.raises(DataError, match="refuses turns"):
        play(talk(), templated("{{ raise_exception('no') if messages|length > 3 }}" + TEMPLATE))


def test_steps_that_are_taken_up_later_are_those_of_a_run_that_was_not_stopped() -> None:
    objective, plan = PolicyGradient(group=4, rollout=talk(trace="turn")), Plan(1, seed=3)
    straight, resumed = (list(objective.steps(toy_model(), PROMPTS, replace(plan, start=n))) for n in (0, 1))
    assert [s.traces for s in straight[1:]] == [s.traces for s in resumed]
    pairs = zip(straight[1].batches, resumed[0].batches, strict=True)
    assert all(one.tokens.equal(other.tokens) for one, other in pairs)


def test_a_rollout_is_an_expression() -> None:
    policy = "everlearn.objectives.policy_gradient:PolicyGradient"
    text = f"{policy}(rollout=MultiTurn({__name__}:Guess, turns=4, trace='turn'), key=('task', 'turn'))"
    objective = parse(text)
    assert objective.rollout.env is Guess
    assert parse(show(objective)) == objective
    assert restore(dump(objective)) == objective


def test_a_game_is_learned_in_a_stream_and_its_traces_are_kept(tmp_path: Path) -> None:
    objective = PolicyGradient(group=6, rollout=talk(turns=2))
    letters = replace(toy_stream(8).experiences[0], objective=objective)
    recipe = Recipe(AdamW(learning_rate=1e-2), batch_size=4, length=64, epochs=8)
    learner = Learner(str(toy_folder(tmp_path / "toy")), chain(), recipe)
    made = run(learner, Stream((letters,)), tmp_path / "run", Settings(suite=()))
    rewards = [row["notes"]["reward"] for row in made.files.metrics()]
    assert sum(rewards[-4:]) / 4 > sum(rewards[:4]) / 4 + 0.05
    kept = made.files.traces()
    assert {"turns", "wrong"} <= kept[0]["notes"].keys()
    assert kept[0]["messages"][1]["content"] == "guess a letter."


def test_the_embedded_model_keeps_tokens_that_its_text_would_not_have(embedded: Path) -> None:
    """Several tokens spell the same word: what was drawn is not what its text encodes to, and is scored as drawn."""
    model = LanguageModel.open(str(embedded), dtype="float32")
    rollout = talk(Endless, sampling=Sampling(temperature=1.5, limit=8), turns=2)
    unlike, ends = 0, end_tokens(model.tokenizer)
    for trace in rollout.run(model, PROMPTS[:1], 8, 0)[0]:
        batch = collate(rows_of([Attempt(PROMPTS[0], trace, 1.0)], True, 4096, False, float), True)
        expected = torch.tensor([p for p, mine in zip(trace.logprobs, trace.drawn, strict=True) if mine])
        assert model.token_logprobs(batch, temperature=1.5).sub(expected).abs().max() < 1e-4
        first, second = runs(trace)
        between = render_between(model.tokenizer, trace.messages[:3]) or ()
        assert trace.tokens == (*first, *(() if first[-1] in ends else ends[:1]), *between, *second)
        unlike += any(tuple(model.tokenizer(model.tokenizer.decode(d)).input_ids) != d for d in (first, second))
    assert unlike
