"""Learning from prompts that nobody has answered, by the majority of one's own answers (TTRL, arXiv:2504.16084).

A vote sharpens the model to its mode, be it right or wrong, and looks the same from inside. What can tell them apart
stands beside it here: a small labelled probe that stops it and takes the best weights back, held-out items that are no
prompt, measured before and after, and a control arm that is rewarded for any answer at all.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from statistics import fmean
from typing import Any, Literal

from everlearn.errors import ConfigError, DataError
from everlearn.evaluate import Exam, sit
from everlearn.examples import Example
from everlearn.learner import Learner, learn
from everlearn.models.language_model import LanguageModel
from everlearn.objectives.groups import finals
from everlearn.objectives.policy_gradient import PolicyGradient
from everlearn.rewards.reward import Answer, question
from everlearn.rewards.text import Answered
from everlearn.rewards.votes import MajorityVote
from everlearn.types import Experience, Reply, State
from everlearn.watch import Watch

Ended = Literal["done", "plateau", "probe"]


@dataclass(frozen=True)
class TTRL:
    """How a model adapts to prompts, and what stops it.

    Args:
        mode: "continual" learns from all prompts and keeps what it learned; "episodic" adapts from the start to each
            `batch_size` of them by itself, answers them, and is reset.
        every: steps between two looks at the probe; once in an epoch at least.
        margin: stop where the score of the probe's attempts has fallen by more than this below its best.
        plateau: majority ratio at which there is nothing left to learn; None learns on.
        patience: steps in a row that have to reach it.
        samples: attempts at each held-out item.
    """

    mode: Literal["continual", "episodic"] = "continual"
    every: int = 8
    margin: float = 0.1
    plateau: float | None = 0.99
    patience: int = 3
    samples: int = 16

    def __post_init__(self) -> None:
        """Refuse counts below one, and modes that there are not."""
        if min(self.every, self.patience, self.samples) < 1 or self.mode not in ("continual", "episodic"):
            raise ConfigError(f"{self}: counts are 1 or more; mode is continual or episodic.")


@dataclass(frozen=True)
class Measured:
    """How good a version is on items that it did not adapt to, by the experience's metric.

    Args:
        answers: of its answers, as a test asks for them.
        attempts: of what it draws, on average (mean@n).
        majority: of the majority among what it draws (maj@n); an item without any answer counts as 0.
    """

    answers: float
    attempts: float
    majority: float


@dataclass(frozen=True)
class Adapted:
    """What became of a model.

    Args:
        state: the new version; the old one where episodes were reset.
        before: on held-out items.
        after: on held-out items; the mean over episodes.
        answers: the majority's answer to each prompt after adaptation; None where nobody gave one.
        ended: why each episode ended: its recipe was "done", there was nothing left to learn ("plateau"), or the
            "probe" fell. However it ended, the weights are those with which the probe scored best, so that a label
            does choose among versions; the held-out items do not.
        log: the rows of all steps, with the vote's notes, and those of the probe.
    """

    state: State
    before: Measured
    after: Measured
    answers: tuple[str | None, ...]
    ended: tuple[Ended, ...]
    log: tuple[Mapping[str, Any], ...]


def ttrl(learner: Learner, state: State | None, experience: Experience, how: TTRL | None = None) -> Adapted:
    """Adapt to an experience's training prompts, whose answers are not looked at.

    Args:
        learner: how to learn; `validations`, `validate` and `margin` of its recipe are set by `how`.
        state: the version to start from; None takes the base model.
        experience: `train` has the prompts, `validation` the labelled probe, `test` the held-out items; its objective
            is a policy gradient by a majority vote, such as
            `PolicyGradient(MajorityVote(), group=64, learned=32, scale="group")`.
        how: mode and guards.

    Raises:
        ConfigError: if the objective has no majority vote.
        DataError: if there is no probe, or an item of the probe or the test is a prompt too.
    """
    vote, told = _vote(experience), how or TTRL()
    _require_disjoint(experience)
    return _adapted(learner, state, experience, told, vote)


def format_only(learner: Learner, state: State | None, experience: Experience, how: TTRL | None = None) -> Adapted:
    """The control arm: as `ttrl`, rewarded for any answer at all.

    What `ttrl` gains beyond this is not a matter of form.
    """
    vote = _vote(experience)
    _require_disjoint(experience)
    control = replace(_policy(experience), reward=Answered(vote.extract))
    return _adapted(learner, state, replace(experience, objective=control), how or TTRL(), vote)


def measure(model: LanguageModel, experience: Experience, vote: MajorityVote, samples: int, seed: int) -> Measured:
    """How good a model is on the experience's test items.

    Args:
        model: who is asked.
        experience: with a policy gradient as its objective, which attempts them.
        vote: elects.
        samples: attempts at each item.
        seed: of the attempts.
    """
    exam = Exam(experience.name, tuple(experience.test), experience.metric, experience.candidates)
    answers = fmean(outcome.score for outcome in sit(model, [exam])[0])
    drawn, elected = list[float](), list[float]()
    for example, texts in _drawn(model, experience, experience.test, samples, seed):
        scores = [experience.metric.score(example, Reply(text)) for text in texts]
        clusters = vote.vote(example, [Answer(text) for text in texts]).clusters
        drawn.append(fmean(scores))
        elected.append(scores[clusters.index(0)] if 0 in clusters else 0.0)
    return Measured(answers, fmean(drawn), fmean(elected))


@dataclass(frozen=True)
class _Episode:
    """What one call of `learn` has led to."""

    state: State
    after: Measured
    answers: tuple[str | None, ...]
    ended: Ended
    log: tuple[Mapping[str, Any], ...]


def _adapted(learner: Learner, state: State | None, experience: Experience, how: TTRL, vote: MajorityVote) -> Adapted:
    prompts, model = experience.train, learner.open()
    start = learner.start(model) if state is None else state
    before = measure(learner.restore(model, start), experience, vote, how.samples, learner.seed)
    whole = how.mode == "continual"
    size = len(prompts) if whole else learner.recipe.batch_size
    parts = [[prompts[i] for i in range(first, len(prompts))[:size]] for first in range(0, len(prompts), size)]
    names = [experience.name if whole else f"{experience.name}.{number}" for number in range(len(parts))]
    own = [replace(experience, name=name, train=part) for name, part in zip(names, parts, strict=True)]
    found = [_episode(learner, start, one, how, vote) for one in own]
    return Adapted(
        state=found[-1].state if whole else start,
        before=before,
        after=Measured(*(fmean(getattr(e.after, f.name) for e in found) for f in fields(Measured))),
        answers=tuple(answer for e in found for answer in e.answers),
        ended=tuple(e.ended for e in found),
        log=tuple(row for e in found for row in e.log),
    )


def _episode(learner: Learner, start: State, experience: Experience, how: TTRL, vote: MajorityVote) -> _Episode:
    watched, model = _Watched(how), learner.restore(learner.open(), start)
    probed = _probed(learner, len(experience.train), how)
    state = learn(probed, model, start, experience, Watch(log=watched.rows.append, enough=watched.enough))
    after = measure(model, experience, vote, how.samples, learner.seed)
    drawn = _drawn(model, experience, experience.train, how.samples, learner.seed)
    answers = tuple(vote.vote(e, [Answer(text) for text in texts]).label for e, texts in drawn)
    return _Episode(state, after, answers, watched.ended(), tuple(watched.rows))


class _Watched:
    """Who looks on while one episode is learned."""

    def __init__(self, how: TTRL) -> None:
        self.how, self.rows = how, list[Mapping[str, Any]]()

    def enough(self) -> bool:
        """Whether the last steps were as good as unanimous."""
        if self.how.plateau is None:
            return False
        ratios = [row["notes"].get("majority ratio", 0.0) for row in self.rows if row.get("notes")]
        last = ratios[-self.how.patience :]
        return len(last) == self.how.patience and min(last) >= self.how.plateau

    def ended(self) -> Ended:
        """Why it ended."""
        scores = [row["validation"] for row in self.rows if "validation" in row]
        if scores[-1] < max(scores) - self.how.margin:
            return "probe"
        return "plateau" if self.enough() else "done"


def _probed(learner: Learner, prompts: int, how: TTRL) -> Learner:
    """The learner, looking at the probe."""
    steps = -(-prompts // learner.recipe.batch_size)
    recipe = replace(
        learner.recipe, validations=max(1, round(steps / how.every)), validate="attempts", margin=how.margin
    )
    return replace(learner, recipe=recipe)


def _drawn(
    model: LanguageModel, experience: Experience, examples: Sequence[Example], count: int, seed: int
) -> Iterator[tuple[Example, list[str]]]:
    """What the policy draws for each example."""
    texts: dict[str, list[str]] = {example.key: [] for example in examples}
    for attempt in finals(_policy(experience).attempt(model, examples, seed, count)):
        texts[attempt.example.key].append(attempt.trace.text)
    for example in examples:
        yield example, texts[example.key]


def _policy(experience: Experience) -> PolicyGradient:
    if not isinstance(experience.objective, PolicyGradient):
        raise ConfigError(
            f"{experience.name}: {experience.objective} attempts nothing; give it "
            'PolicyGradient(MajorityVote(), group=64, learned=32, scale="group").'
        )
    return experience.objective


def _vote(experience: Experience) -> MajorityVote:
    reward = _policy(experience).reward
    if not isinstance(reward, MajorityVote):
        raise ConfigError(f"{experience.name}: its reward is {reward}; test-time learning votes, give MajorityVote().")
    return reward


def _require_disjoint(experience: Experience) -> None:
    """Refuse to report on what was adapted to, and to adapt without a probe."""
    prompts = {question(e) for e in experience.train}
    for name, items in (("probe (validation)", experience.validation), ("held-out items (test)", experience.test)):
        both = [e for e in items if question(e) in prompts]
        if both or not len(items):
            what = f"{len(both)} are prompts that are adapted to, such as {both[0].key}" if both else "there are none"
            raise DataError(
                f"{experience.name}, {name}: {what}. A majority cannot tell wrong from right: keep labelled items "
                "apart from the prompts."
            )
