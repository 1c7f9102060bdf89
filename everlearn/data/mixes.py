"""Data mixes as a schedule: sources whose shares of the tokens change as training goes on.

A mix says what is asked; `everlearn.data.feeds` draws from it once there are tokens to count.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import isfinite
from typing import Any, overload

from everlearn.data.sequences import Joined, Planned, select, with_origin
from everlearn.errors import ConfigError
from everlearn.examples import Example


@dataclass(frozen=True)
class Phase:
    """A stretch of training in which each source has the same share of the tokens.

    Args:
        tokens: how long it is.
        weights: of each source; they need not sum to 1, and a source that is not named is left out.
    """

    tokens: int
    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        """Refuse a phase in which there is nothing to draw."""
        numbers = list(self.weights.values())
        if self.tokens < 1 or not all(isfinite(w) and w >= 0 for w in numbers) or sum(numbers) <= 0:
            raise ConfigError(f"{self}: give 1 token or more, and weights of 0 or more, one of them above 0.")

    def share(self, source: str) -> float:
        """The source's share of the tokens, in [0, 1]."""
        return self.weights.get(source, 0.0) / sum(self.weights.values())


@dataclass(frozen=True, eq=False)
class Mix(Planned):
    """Sources, and how much of each is learned from at what time: up-sampled, down-sampled, recent data last.

    As a sequence it holds each document of each source once, source after source, for whoever only reads. An objective
    that counts tokens, such as `NextToken`, draws from it as the phases say, see `everlearn.data.feeds`: a source that
    is exhausted begins again in another order, one that is not is left in the middle of a document, and the next phase
    goes on there.

    Args:
        sources: documents or conversations by name, in memory or lazy.
        phases: one after another.
    """

    sources: Mapping[str, Sequence[Example]]
    phases: tuple[Phase, ...]

    def __post_init__(self) -> None:
        """Refuse phases that name no source, and sources that no phase names or that are empty."""
        named = {name for phase in self.phases for name, weight in phase.weights.items() if weight > 0}
        unknown = sorted({name for phase in self.phases for name in phase.weights} - set(self.sources))
        if unknown:
            raise ConfigError(f"a mix of {sorted(self.sources)} has phases that name {unknown}; name its sources.")
        if not self.phases or (idle := sorted(set(self.sources) - named)):
            raise ConfigError(f"a mix draws nothing from {idle if self.phases else sorted(self.sources)}; give phases.")
        if empty := sorted(name for name in named if not len(self.sources[name])):
            raise ConfigError(f"the sources {empty} of a mix have no rows; give them rows, or leave them out.")

    @cached_property
    def plain(self) -> Sequence[Example]:
        """Each document once, with no plan."""
        return Joined(tuple(self.sources.values()))

    @property
    def tokens(self) -> int:
        """Length of all phases."""
        return sum(phase.tokens for phase in self.phases)

    @property
    def shares(self) -> dict[str, float]:
        """Each source's share of all tokens, in [0, 1]."""
        return {name: sum(p.tokens * p.share(name) for p in self.phases) / self.tokens for name in self.sources}

    def described(self) -> dict[str, Any]:
        """The plan as plain data: documents by source, and phases."""
        phases = [{"tokens": phase.tokens, "weights": dict(phase.weights)} for phase in self.phases]
        return {"sources": {name: len(rows) for name, rows in self.sources.items()}, "phases": phases}

    def __len__(self) -> int:
        """Number of documents of all sources."""
        return len(self.plain)

    def __iter__(self) -> Iterator[Example]:
        """Each document once."""
        return iter(self.plain)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | Sequence[Example]:
        """One document, or a lazy part that has no plan."""
        return self.plain[index]

    def selected(self, rows: Sequence[int]) -> "Mix":
        """The same plan over some of the documents.

        Args:
            rows: their places, rising.
        """
        kept, at = dict[str, Sequence[Example]](), 0
        for name, examples in self.sources.items():
            kept[name] = select(examples, [row - at for row in rows if at <= row < at + len(examples)])
            at += len(examples)
        return replace(self, sources=kept)

    def owned(self, origin: str) -> "Mix":
        """The same plan over documents that say that they belong to an experience."""
        return replace(self, sources={name: with_origin(found, origin) for name, found in self.sources.items()})

    def replaying(self, share: float, old: "Sequence[Example] | Mix", name: str = "replay") -> "Mix":
        """Old data among the new in all phases; phases grow, so that as much new data is learned as before.

        Args:
            share: of the old data in all tokens, in [0, 1); see `replay_share`.
            old: documents, or the mix that they were learned in: its sources keep their shares of its tokens.
            name: what is old is called so in the account; the sources of a mix are called "NAME SOURCE".

        Raises:
            ConfigError: if the share is not in [0, 1), or there are sources of that name.
        """
        if not 0 <= share < 1:
            raise ConfigError(f"a share of {share} of the tokens cannot be replayed; use 0 or more, and less than 1.")
        if share == 0:
            return self
        sources, parts = {name: old}, {name: 1.0}
        if isinstance(old, Mix):
            sources = {f"{name} {inner}": rows for inner, rows in old.sources.items()}
            parts = {f"{name} {inner}": part for inner, part in old.shares.items()}
        if both := sorted(set(sources) & set(self.sources)):
            raise ConfigError(f"the mix has sources {both} already; give what is replayed another name.")
        phases = tuple(
            Phase(
                round(phase.tokens / (1 - share)),
                {n: (1 - share) * phase.share(n) for n in phase.weights} | {n: share * p for n, p in parts.items()},
            )
            for phase in self.phases
        )
        return Mix({**self.sources, **sources}, phases)


WEAK, STRONG = 0.25, 1.0
"""Nats per token by which a new domain is worse under the old model: English beside English, German beside English."""


def replay_share(old_loss: float, new_loss: float) -> float:
    """How much to replay, from what the model knows of the new data before it learns them.

    Reconstruction: arXiv:2403.08763 replays 5 % of the tokens under a weak shift, 25 % or more under a strong one (a
    language), and tries no more than 50 %; it has no formula in between. Here the shift is the difference of the two
    losses: up to 0.25 nats is weak, 1 nat strong; between them, and beyond, the share is on the line through both.

    Args:
        old_loss: of the model on held-out data of its old mix, in nats per token.
        new_loss: of the same model on held-out new data, in nats per token.

    Returns:
        A share of all tokens, in [0.05, 0.5].

    Raises:
        ConfigError: if a loss is not a number of 0 or more.
    """
    if not all(isfinite(loss) and loss >= 0 for loss in (old_loss, new_loss)):
        raise ConfigError(f"losses {old_loss} and {new_loss}: they are means in nats per token, 0 or more.")
    slope = (0.25 - 0.05) / (STRONG - WEAK)
    return min(0.5, max(0.05, 0.05 + slope * (new_loss - old_loss - WEAK)))
