"""Pairs of a version's own answers: scored, paired and counted."""

from collections.abc import Sequence
from dataclasses import dataclass

from everlearn.data.pairing import Pairing
from everlearn.drawn_pairs import Drawing
from everlearn.examples import Example
from everlearn.models.sampling import Sampling
from everlearn.objectives.rollouts import SingleTurn
from everlearn.rewards.reward import Answer
from everlearn.testing.toys import question, toy_model

PROMPTS = [question(f"say {w}", "x") for w in "abcd"]


@dataclass(frozen=True)
class Vowels:
    """The share of vowels; where a digit stands it cannot tell."""

    def score(self, example: Example, replies: Sequence[Answer]) -> list[float | None]:
        return [
            None if any(c.isdigit() for c in r.text) else sum(c in "aeiou" for c in r.text) / max(len(r.text), 1)
            for r in replies
        ]


DRAWING = Drawing(Vowels(), SingleTurn(Sampling(limit=6)), 8, Pairing(truncated=True))


def test_pairs_are_of_what_the_model_said_and_the_chosen_one_scored_better() -> None:
    drawn = DRAWING.draw(toy_model(), PROMPTS, 0)
    assert drawn.counts["prompts"] == 4
    assert drawn.counts["answers"] == len(drawn.traces) == 32
    assert drawn.counts["unscorable"] == sum(trace.reward is None for trace in drawn.traces) > 0
    assert drawn.counts["pairs"] == len(drawn.pairs) == sum(drawn.counts[b] for b in ("low", "mid", "high")) > 0
    rewards = {(trace.task, trace.text): trace.reward for trace in drawn.traces}
    tasks = {example.prompt: example.key for example in PROMPTS}
    for pair in drawn.pairs:
        better, worse = (rewards[tasks[pair.prompt], text] for text in pair.choices)
        assert better is not None
        assert worse is not None
        assert better - worse == pair.metadata["gap"] >= 0.1
        assert better == max(r for (task, _), r in rewards.items() if task == tasks[pair.prompt] and r is not None)


def test_the_same_seed_draws_the_same_pairs() -> None:
    first, again, other = (DRAWING.draw(toy_model(), PROMPTS, seed).pairs for seed in (0, 0, 1))
    assert first == again != other
