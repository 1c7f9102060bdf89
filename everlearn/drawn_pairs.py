"""Pairs of a version's own answers: drawn, scored and paired."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from everlearn.data.pairing import BUCKETS, Candidate, Pairing, pairs_of
from everlearn.examples import Example
from everlearn.models.language_model import LanguageModel
from everlearn.objectives.groups import judged
from everlearn.objectives.rollouts import SingleTurn
from everlearn.rewards.reward import Reward
from everlearn.traces import Trace


@dataclass(frozen=True)
class Drawn:
    """What came of it.

    Args:
        pairs: in the prompts' order.
        traces: all answers with their rewards.
        counts: of prompts, answers, unscorable ones, pairs, and pairs in each bucket.
    """

    pairs: tuple[Example, ...]
    traces: tuple[Trace, ...]
    counts: Mapping[str, int]


@dataclass(frozen=True)
class Drawing:
    """How pairs come from prompts.

    Args:
        reward: scores the answers to a prompt together; one that it cannot score takes part in no pair.
        rollout: how answers are drawn.
        group: answers to each prompt.
        pairing: which pairs are made of them.
    """

    reward: Reward
    rollout: SingleTurn
    group: int
    pairing: Pairing

    def draw(self, model: LanguageModel, prompts: Sequence[Example], seed: int) -> Drawn:
        """Pairs of what the model answers.

        Args:
            model: the version.
            prompts: conversations; what their last turn says is seen by the reward alone.
            seed: decides all randomness.
        """
        groups = [
            judged(example, traces, self.reward)
            for example, traces in zip(prompts, self.rollout.run(model, prompts, self.group, seed), strict=True)
        ]
        pairs = pairs_of(prompts, [_candidates(group) for group in groups], self.pairing, seed)
        traces = tuple(trace for group in groups for trace in group)
        counts = {
            "prompts": len(prompts),
            "answers": len(traces),
            "unscorable": sum(trace.reward is None for trace in traces),
            "pairs": len(pairs),
        }
        counts |= {bucket: sum(pair.metadata["bucket"] == bucket for pair in pairs) for bucket in BUCKETS}
        return Drawn(tuple(pairs), traces, counts)


def _candidates(traces: Sequence[Trace]) -> list[Candidate]:
    """The answers that were scored."""
    return [
        Candidate(trace.text, trace.reward, sum(trace.logprobs) / max(trace.length, 1), trace.finished)
        for trace in traces
        if trace.reward is not None
    ]
