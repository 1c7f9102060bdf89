"""From scored answers to pairs: by how much the better one is better, which rejected one, and how many of each kind."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from everlearn.data.preferences import pair
from everlearn.errors import ConfigError
from everlearn.examples import Example
from everlearn.randomness import permutation
from everlearn.statistics import ROUNDING

Bucket = Literal["low", "mid", "high"]
BUCKETS: tuple[Bucket, ...] = ("low", "mid", "high")


@dataclass(frozen=True)
class Candidate:
    """An answer that was scored.

    Args:
        text: without special tokens.
        reward: how good it is.
        likelihood: mean log-probability of its tokens in nats, under the model that drew it.
        finished: whether it ended by itself.
    """

    text: str
    reward: float
    likelihood: float = 0.0
    finished: bool = True


@dataclass(frozen=True)
class Pairing:
    """Which pairs are made of a prompt's answers.

    The chosen answer is one with the prompt's best reward, the rejected one any that is worse by `gap` at least. The
    range of such gaps over all prompts is cut into three buckets of equal width, and each prompt gives a pair to the
    bucket that has fewest so far among those that it can give to.

    Args:
        gap: least difference of the rewards.
        per_prompt: most pairs of one prompt, each with another rejected answer.
        hard: among the pairs of a bucket take the one whose rejected answer the model finds likeliest (a hard
            negative); else any.
        truncated: whether answers that ended at the limit take part: as text they end there.
    """

    gap: float = 0.1
    per_prompt: int = 1
    hard: bool = True
    truncated: bool = False

    def __post_init__(self) -> None:
        """Refuse numbers without a meaning."""
        if self.gap <= 0 or self.per_prompt < 1:
            raise ConfigError(f"{self}: gap is positive, and per_prompt is 1 at least.")


@dataclass(frozen=True)
class _Option:
    """A pair that a prompt could give."""

    chosen: Candidate
    rejected: Candidate
    gap: float


def pairs_of(
    prompts: Sequence[Example], answers: Sequence[Sequence[Candidate]], pairing: Pairing, seed: int
) -> list[Example]:
    """Pairs, in the prompts' order; each says its `gap` and its `bucket` in its metadata.

    Args:
        prompts: conversations whose last turn is not looked at.
        answers: to each of them.
        pairing: which pairs are made.
        seed: decides which prompts choose their bucket first, and what is taken where nothing else decides.
    """
    offered = [_options(group, pairing, seed) for group in answers]
    gaps = [option.gap for options in offered for option in options]
    low, high = (min(gaps), max(gaps)) if gaps else (0.0, 0.0)
    counts = dict.fromkeys(BUCKETS, 0)
    found: list[list[Example]] = [[] for _ in prompts]
    for _ in range(pairing.per_prompt):
        for index in permutation(len(prompts), seed, "prompts"):
            if not offered[index]:
                continue
            best = min(offered[index], key=lambda option: _rank(option, counts, (low, high), pairing.hard))
            bucket = bucket_of(best.gap, low, high)
            counts[bucket] += 1
            offered[index] = [o for o in offered[index] if o.rejected.text.strip() != best.rejected.text.strip()]
            about = {"gap": best.gap, "bucket": bucket}
            found[index].append(pair(prompts[index].prompt, best.chosen.text, best.rejected.text, about))
    return [example for group in found for example in group]


def bucket_of(gap: float, low: float, high: float) -> Bucket:
    """In which third of the range from `low` to `high` a gap lies."""
    return BUCKETS[min(2, int(3 * (gap - low) / (high - low)))] if high > low else BUCKETS[0]


def _rank(option: _Option, counts: dict[Bucket, int], ends: tuple[float, float], hard: bool) -> tuple[int, float]:
    """Smaller is taken first: a bucket with few pairs, then a likely rejected answer."""
    return counts[bucket_of(option.gap, *ends)], -option.rejected.likelihood if hard else 0.0


def _options(group: Sequence[Candidate], pairing: Pairing, seed: int) -> list[_Option]:
    usable = [c for c in group if c.text.strip() and (c.finished or pairing.truncated)]
    if not usable:
        return []
    best = max(candidate.reward for candidate in usable)
    chosen = max((c for c in usable if c.reward == best), key=lambda c: c.likelihood)
    order = permutation(len(usable), seed, "answers")
    options = [_Option(chosen, usable[i], best - usable[i].reward) for i in order]
    return [o for o in options if o.gap > pairing.gap - ROUNDING and o.rejected.text.strip() != chosen.text.strip()]
