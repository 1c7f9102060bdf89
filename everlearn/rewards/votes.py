"""The majority of a group as its label (TTRL, arXiv:2504.16084), by what answers mean, not how they are written."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Protocol, runtime_checkable

import torch

from everlearn.examples import Example
from everlearn.metrics.text import ExactMatch
from everlearn.randomness import generator
from everlearn.rewards.extraction import Extractor, WholeText
from everlearn.rewards.reward import Answer, Scores, question, right_answer


@runtime_checkable
class Equality(Protocol):
    """Whether two answers are the same. Frozen data."""

    def same(self, one: str, other: str) -> bool:
        """Whether they are."""


@dataclass(frozen=True)
class SameText:
    """Two answers are the same if they are after the clean-up.

    Args:
        match: the clean-up.
    """

    match: ExactMatch = ExactMatch(ignore_case=True, collapse_spaces=True)

    def same(self, one: str, other: str) -> bool:
        """Whether they are."""
        return self.match.clean(one) == self.match.clean(other)


@dataclass(frozen=True)
class Vote:
    """What a group's answers are, and which most of them are. Nothing in it needs a right answer.

    Args:
        label: the elected answer, as its commonest member is written; None where nobody gave one.
        clusters: for each completion the number of its answer among the different ones, the commonest first; None
            where it gave none.
        majority_ratio: share of the elected answer among the answers given.
        entropy: of the answers given, in nats.
        distinct: different answers.
        tied: whether others had as many votes, so that chance elected.
    """

    label: str | None
    clusters: tuple[int | None, ...]
    majority_ratio: float
    entropy: float
    distinct: int
    tied: bool


@dataclass(frozen=True)
class MajorityVote:
    """1 if a completion's answer is the one that most of its group gave, else 0 (TTRL, arXiv:2504.16084, eq. 2).

    Answers vote by what they mean: with `SameNumber()`, "1/2" and "0.5" are two votes for one answer. Answers that are
    equal through others count as one. Completions without an answer do not vote; a group without any is None
    throughout. Ties are broken by chance that depends on the seed and the prompt alone.

    It sharpens to the mode, right or wrong: watch `vote` on prompts that are labelled. To vote on many and train on
    fewer, score all, and keep the first so many scores.

    Args:
        extract: finds the answer in a completion.
        equality: which answers are the same: `SameText()`, `SameNumber()` or `SameMath()`.
        unanswered: the score of a completion without an answer in a group that has some; None leaves it out.
        seed: breaks ties.
    """

    extract: Extractor = WholeText()
    equality: Equality = SameText()
    unanswered: float | None = 0.0
    seed: int = 0

    def score(self, example: Example, replies: Sequence[Answer]) -> Scores:
        """See `Reward`."""
        vote = self.vote(example, replies)
        if vote.label is None:
            return [None] * len(replies)
        return [self.unanswered if cluster is None else float(cluster == 0) for cluster in vote.clusters]

    def notes(self, example: Example, replies: Sequence[Answer]) -> Mapping[str, float]:
        """See `Noting`: how the group votes, and whether rightly where the right answer happens to be known.

        `majority ratio`, `answer entropy` in nats and `distinct answers` of those that gave one, whether it was `tied`,
        the share that is `unanswered`; and `right label`, which nothing is learned from.
        """
        vote, right = self.vote(example, replies), right_answer(example)
        found = {
            "majority ratio": vote.majority_ratio,
            "answer entropy": vote.entropy,
            "distinct answers": float(vote.distinct),
            "tied": float(vote.tied),
            "unanswered": vote.clusters.count(None) / len(replies),
        }
        if right is None:
            return found
        known = self.extract.find(right) or right
        return found | {"right label": float(vote.label is not None and self.equality.same(vote.label, known))}

    def vote(self, example: Example, replies: Sequence[Answer]) -> Vote:
        """The group's answers counted; cluster 0 is the elected one.

        Args:
            example: whose prompt breaks ties; its answer is not looked at.
            replies: all completions that vote.
        """
        answers = [self.extract.find(reply.text) or None for reply in replies]
        given = Counter(answer for answer in answers if answer is not None)
        found = _clusters(self.equality, tuple(sorted(given.items())))  # type: ignore[arg-type]  # it is frozen data
        clusters = [list(cluster) for cluster in found]
        if not clusters:
            return Vote(None, (None,) * len(answers), 0.0, 0.0, 0, False)
        sizes = [sum(given[text] for text in cluster) for cluster in clusters]
        first = sizes.count(sizes[0])
        clusters.insert(0, clusters.pop(self._drawn(example, first)))
        numbers = {text: number for number, cluster in enumerate(clusters) for text in cluster}
        shares = [size / given.total() for size in sizes]
        return Vote(
            label=min(clusters[0], key=lambda text: (-given[text], text)),
            clusters=tuple(None if answer is None else numbers[answer] for answer in answers),
            majority_ratio=shares[0],
            entropy=-sum(share * math.log(share) for share in shares) + 0.0,
            distinct=len(clusters),
            tied=first > 1,
        )

    def _drawn(self, example: Example, count: int) -> int:
        """One of so many, by the seed and the prompt; the answer does not matter, which a learner may not have."""
        asked = json.dumps([[turn.role, turn.content] for turn in question(example)] or [example.text])
        return int(torch.randint(count, (), generator=generator(self.seed, "vote", asked)))


@lru_cache(maxsize=64)  # a group is scored and then described
def _clusters(equality: Equality, given: tuple[tuple[str, int], ...]) -> tuple[tuple[str, ...], ...]:
    """Texts that are equal, directly or through others; the commonest answer first, then by the alphabet.

    Args:
        equality: which answers are the same.
        given: different texts, sorted, with how often each was given.
    """
    counts = dict(given)
    home = {text: {text} for text in counts}
    for one, other in combinations(counts, 2):
        if home[one] is not home[other] and equality.same(one, other):
            joined = home[one] | home[other]
            home.update(dict.fromkeys(joined, joined))
    clusters = {id(cluster): tuple(sorted(cluster)) for cluster in home.values()}.values()
    return tuple(sorted(clusters, key=lambda cluster: (-sum(counts[text] for text in cluster), cluster)))
