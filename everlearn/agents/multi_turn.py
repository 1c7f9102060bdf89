"""Attempts in several turns: an environment answers the policy until it is done, and the tokens stay as they were."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from typing import Literal, get_args

from everlearn.agents.calls import tried
from everlearn.agents.conversations import Conversation
from everlearn.agents.environments import Env, Observation, Scoring
from everlearn.data.render import tells
from everlearn.errors import ConfigError, ModelError
from everlearn.examples import Example, Message
from everlearn.models.decoding import Ask
from everlearn.models.generate import positions
from everlearn.models.language_model import LanguageModel
from everlearn.models.sampling import Completion, Sampling, sample_asked, seed_at
from everlearn.objectives.rollouts import require_policy
from everlearn.randomness import seed_of
from everlearn.rewards.reward import question
from everlearn.traces import Trace

Kept = Literal["whole", "turn"]
Credit = Literal["sum", "last", "own", "onward"]
Cut = Literal["end", "close"]
CHOICES = {"trace": Kept, "credit": Credit, "cut": Cut}


@dataclass(frozen=True)
class MultiTurn:
    """The model and an environment speak in turns; a `Rollout`.

    All attempts that are still going on are sampled together, turn by turn; each draws by its own seed, so that an
    attempt is the same alone and among others. The model's tokens are kept as they were drawn, and what the environment
    says is rendered by the chat template and put between them, as tokens that were not drawn. Where the template
    rewrites what was said before (one that leaves out earlier reasoning), a new trace begins, whose prompt is the
    conversation as the model then reads it. An environment that raises breaks its own attempt alone: that one is not
    scored, and its traces say what happened.

    Args:
        env: makes an environment, an `Env` and perhaps `Scoring`; called for each attempt. A class, a function, or
            frozen data that can be called.
        sampling: how tokens are drawn; its limit is a turn's. As in `SingleTurn`, from the whole distribution.
        turns: most turns of the model in an attempt.
        tokens: most tokens of a conversation, prompt counted; None takes the model's positions, where it says them
            (soft prompts that a method puts in front need some of them: give less then).
        trace: one trace for a "whole" attempt, or one for each "turn", with its number: for keys of a policy gradient
            such as ("task", "turn"). Averages over attempts are then averages over turns.
        credit: the reward of a trace: the "sum" of the rewards of all the attempt's answers, the "last" of them, the
            sum of its "own" answers', or of its own and those that come after ("onward"). All are the same where a
            whole attempt is one trace, but for "last".
        cut: an answer that reaches a limit is judged as it stands; then the attempt is over ("end"), or the answer is
            closed by the end token that it lacks, which is not learned, and the attempt goes on ("close").

    An attempt that ends at a limit, of an answer's or the conversation's tokens or of turns, is not `finished`.
    """

    env: Callable[[], Env]
    sampling: Sampling = field(default_factory=Sampling)
    turns: int = 8
    tokens: int | None = None
    trace: Kept = "whole"
    credit: Credit = "sum"
    cut: Cut = "end"

    def __post_init__(self) -> None:
        """Refuse choices that there are not, what has no log-probabilities, and limits that leave no turn."""
        for name, choices in CHOICES.items():
            if getattr(self, name) not in get_args(choices):
                raise ConfigError(f"{name}={getattr(self, name)!r}: choose among {get_args(choices)}.")
        require_policy(self.sampling)
        if self.turns < 1 or (self.tokens is not None and self.tokens < 2):
            raise ConfigError(f"turns={self.turns}, tokens={self.tokens}: leave room for one turn, of one token.")

    def run(self, model: LanguageModel, examples: Sequence[Example], n: int, seed: int) -> list[list[Trace]]:
        """See `Rollout`.

        Raises:
            DataError: if the chat template refuses the turns.
            ModelError: if a prompt leaves no room for an answer, or the chat template leaves out tools.
        """
        room = min(self.tokens or inf, positions(model.module) or inf)
        groups = [[_Attempt(example, number) for number in range(n)] for example in examples]
        every = [attempt for group in groups for attempt in group]
        for attempt in every:
            attempt.begin(self, model, seed, room)
        for _ in range(self.turns):
            live = [a for a in every if a.live]
            for attempt, completion in zip(live, self._drawn(model, live, seed, room), strict=True):
                attempt.take(completion, self, room)
        return [[trace for attempt in group for trace in attempt.traces(self)] for group in groups]

    def _drawn(self, model: LanguageModel, live: "Sequence[_Attempt]", seed: int, room: float) -> Iterator[Completion]:
        """The next answer of each attempt; those that stand at the same tokens are read together."""
        prompts = [a.talk.prompt for a in live]
        together: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for prompt, attempt in zip(prompts, live, strict=True):
            together[prompt].append(seed_at(seed, prompt, attempt.number))
        asks = [
            Ask(prompt, seeds=tuple(seeds), limit=int(min(self.sampling.limit, room - len(prompt))))
            for prompt, seeds in together.items()
        ]
        found = sample_asked(model, asks, self.sampling) if asks else []
        rows = {ask.prompt: iter(group) for ask, group in zip(asks, found, strict=True)}
        return (next(rows[prompt]) for prompt in prompts)


class _Attempt:
    """One attempt in the making."""

    def __init__(self, example: Example, number: int) -> None:
        self.example, self.number = example, number
        self.live, self.finished, self.error = True, False, ""
        self.turn, self.notes = 0, dict[str, float]()

    def begin(self, rollout: MultiTurn, model: LanguageModel, seed: int, room: float) -> None:
        """Reset the environment, and show what it says first."""
        self.env = rollout.env()
        seed = seed_of(seed, "environment", self.example.key)
        first = self._heard(lambda: self.env.reset(self.example, seed))
        if first.tools and not tells(model.tokenizer, first.tools):
            raise ModelError(f"the chat template of {model.name} leaves out tools; tell of them in the system's turn.")
        opening = first.messages or question(self.example)
        self.talk = Conversation(model, opening, first.tools, rollout.trace == "turn")
        if len(self.talk.prompt) >= room:
            raise ModelError(
                f"{self.example.source or 'an example'}: a prompt of {len(self.talk.prompt)} tokens leaves no room for "
                f"an answer within {room}; shorten it, or raise `tokens`."
            )

    def take(self, completion: Completion, rollout: MultiTurn, room: float) -> None:
        """The policy's turn, and the environment's."""
        self.turn += 1
        self.talk.answer(completion)
        heard = self._heard(lambda: self.env.step(completion.text))
        self.talk.last.rewards += [] if heard.reward is None else [heard.reward]
        self.finished = heard.done and completion.finished
        out = self.turn == rollout.turns or (rollout.cut == "end" and not completion.finished)
        self.live = not (self.error or heard.done or out)
        if self.live:
            self.talk.reply(heard.messages or (Message("user", ""),))
            self.live = len(self.talk.prompt) < room
        else:
            self.talk.messages += heard.messages
        if not self.live and not self.error and isinstance(self.env, Scoring):
            self._heard(partial(self._scored, self.env))

    def _scored(self, env: Scoring) -> Observation:
        """The environment's word on the whole, which counts to the last answer."""
        heard = Observation(reward=env.score())
        last = [s for s in self.talk.stretches if any(s.drawn)][-1]
        last.rewards += [] if heard.reward is None else [heard.reward]
        return heard

    def traces(self, rollout: MultiTurn) -> Iterator[Trace]:
        """What the attempt leaves; one trace without tokens where it broke before the first turn."""
        held = [s for s in self.talk.stretches if any(s.drawn)] or self.talk.stretches[:1]
        rewards = [None] * len(held) if self.error else credited([s.rewards for s in held], rollout.credit)
        for stretch, reward in zip(held, rewards, strict=True):
            end = len(stretch.drawn) - [*stretch.drawn[::-1], True].index(True)
            found = Trace(
                stretch.prompt,
                tuple(stretch.tokens[:end]),
                tuple(stretch.drawn[:end]),
                tuple(stretch.logprobs[:end]),
                stretch.text,
                self.finished,
                self.example.key,
                self.example.origin,
                turn=stretch.turn if rollout.trace == "turn" else 0,
                reward=reward,
                attempt=self.number,
                error=self.error,
            )
            notes = self.notes | {"turns": float(self.turn)}
            last = stretch is held[-1]
            yield replace(found, notes=notes, messages=tuple(self.talk.messages)) if last else found

    def _heard(self, act: Callable[[], Observation | str]) -> Observation:
        """What the environment says; nothing where it raises, which breaks the attempt."""
        outcome = tried(lambda: _observed(act()))
        if outcome.error:
            self.error = f"{self.example.source or self.example.key}, turn {self.turn}: {outcome.error}"
            self.live = False
            return Observation()
        heard: Observation = outcome.value
        for name, number in heard.info.items():
            self.notes[name] = self.notes.get(name, 0.0) + number
        return heard


def _observed(said: Observation | str) -> Observation:
    return said if isinstance(said, Observation) else Observation(said)


def credited(rewards: Sequence[Sequence[float]], credit: Credit) -> list[float | None]:
    """The reward of each trace of an attempt, by the rewards of the answers that it holds.

    Args:
        rewards: of the answers that have one, trace by trace.
        credit: see `MultiTurn`.

    Returns:
        None where none of the answers that count has a reward.
    """
    match credit:
        case "own":
            return [sum(own) if own else None for own in rewards]
        case "onward":
            after = [[r for own in rewards[i:] for r in own] for i in range(len(rewards))]
            return [sum(known) if known else None for known in after]
    known = [r for own in rewards for r in own]
    if not known:
        return [None] * len(rewards)
    return [sum(known) if credit == "sum" else known[-1]] * len(rewards)
