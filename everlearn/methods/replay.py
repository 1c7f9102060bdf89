"""Replay: training on old examples among the new ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from everlearn.data.buffers import (
    Kept,
    balanced_keep,
    group_of,
    grouped_keep,
    mixed,
    reservoir_keep,
    rows_kept,
    turns,
)
from everlearn.data.selection import herd, representatives
from everlearn.data.sequences import each
from everlearn.errors import ConfigError
from everlearn.examples import Batch, Example
from everlearn.method import Context, Method
from everlearn.models.features import prompt_features
from everlearn.models.language_model import LanguageModel
from everlearn.randomness import integers
from everlearn.types import Memory

Selection = Literal["reservoir", "balanced", "classes"]
Represented = Literal["herding", "herding-repo", "diverse"]
Course = Literal["constant", "growing"]


@dataclass(frozen=True)
class Replay(Method):
    """Mix stored examples of earlier experiences into the new ones (experience replay, arXiv:1902.10486).

    In each epoch stored examples are drawn anew, without replacement until all have been used, then again. Differs from
    the paper: the share is set by `fraction`, not by a second batch of equal size (see `SpacedReplay` for that); of few
    new examples a small fraction is none, 0.1 of four. Memory: the text of `capacity` examples, whatever the number of
    experiences.

    Args:
        fraction: share of replayed examples among all examples trained on, in [0, 1).
        capacity: most examples kept in all.
        selection: "reservoir" keeps a uniform sample of all examples seen (Vitter 1985), so that long experiences get
            more room; "balanced" gives each experience the same room; "classes" the same to each of an experience's
            labels, by the example's answer, and to each experience without labels.
        course: "constant" replays the same share in every experience after the first; "growing" as many examples for
            each experience learned before as "constant" does for all of them.
    """

    keeps: ClassVar[str] = "capacity examples, in all"
    computes: ClassVar[str] = "the replayed examples"
    shardings: ClassVar = frozenset({"replicated", "sharded"})  # touches no parameter

    fraction: float = 0.1
    capacity: int = 1000
    selection: Selection = "balanced"
    course: Course = "constant"

    def __post_init__(self) -> None:
        """Refuse a share that leaves no room for new examples, and selections that there are not."""
        _require(self, self.fraction, self.capacity)
        if self.selection not in ("reservoir", "balanced", "classes") or self.course not in ("constant", "growing"):
            raise ConfigError(f"{self}: selection is reservoir, balanced or classes, course constant or growing.")

    def init(self, model: LanguageModel) -> Memory:
        """An empty buffer."""
        return {"rows": [], "groups": [], "seen": 0}

    def data(self, memory: Memory, examples: Sequence[Example], ctx: Context) -> Sequence[Example]:
        """The new examples, and as many old ones as the fraction asks for."""
        count = replayed(self.fraction, self.course, len(examples), ctx.seen)
        return mixed(examples, memory["rows"], count, ctx.rng("replay"))

    def end(self, memory: Memory, ctx: Context) -> Memory:
        """The buffer after the experience's own examples were offered to it."""
        return offered(memory, self.selection, self.capacity, ctx)


@dataclass(frozen=True)
class RepresentativeReplay(Method):
    """Mix stored examples into the new ones, and store those that stand for all (exemplars, iCaRL, arXiv:1611.07725).

    Features are the mean last hidden state of an example's prompt, scaled to length 1, under the version that the
    experience ends with. Herding is done within each of an experience's labels, as in the paper, and over the whole
    experience where it has none; when a group's room shrinks, the first it has taken stay. Differs from the paper: the
    classifier is the language model, not the nearest mean. Extra compute: one forward pass over `candidates` prompts
    at the end of an experience. Memory: the text of `capacity` examples, whatever the number of experiences.

    Args:
        fraction: share of replayed examples among all examples trained on, in [0, 1).
        capacity: most examples kept in all; each group has the same room.
        selection: "herding" takes in turn what brings the mean of those taken closest to the mean of all (algorithm 4);
            "herding-repo" does so by the rule of the authors' code; "diverse" takes what is nearest to the centres of
            k-means with as many clusters as the experience has room, the largest clusters first.
        course: as of `Replay`.
        candidates: most examples of an experience that are considered, a uniform sample of them.
    """

    keeps: ClassVar[str] = "capacity examples, in all"
    computes: ClassVar[str] = "the replayed examples; a forward pass over candidates, at the end"

    fraction: float = 0.1
    capacity: int = 1000
    selection: Represented = "herding"
    course: Course = "constant"
    candidates: int = 10_000

    def __post_init__(self) -> None:
        """Refuse a share that leaves no room for new examples, and selections that there are not."""
        _require(self, self.fraction, min(self.capacity, self.candidates))
        if self.selection not in ("herding", "herding-repo", "diverse") or self.course not in ("constant", "growing"):
            raise ConfigError(f"{self}: selection is herding, herding-repo or diverse, course constant or growing.")

    def init(self, model: LanguageModel) -> Memory:
        """An empty buffer."""
        return {"rows": [], "groups": []}

    def data(self, memory: Memory, examples: Sequence[Example], ctx: Context) -> Sequence[Example]:
        """The new examples, and as many old ones as the fraction asks for."""
        count = replayed(self.fraction, self.course, len(examples), ctx.seen)
        return mixed(examples, memory["rows"], count, ctx.rng("replay"))

    def end(self, memory: Memory, ctx: Context) -> Memory:
        """The buffer after the representatives of the experience were chosen."""
        train, name = ctx.experience.train, ctx.experience.name
        sample = torch.randperm(len(train), generator=ctx.rng("keep"))[: self.candidates].sort().values
        new = list(each(train, integers(sample)))
        labels = () if self.selection == "diverse" else ctx.experience.labels
        groups = [group_of(e, name, labels) for e in new]

        def chosen(members: Kept, room: int) -> Kept:
            them = [Example.from_row(memory["rows"][i]) if old else new[i] for old, i in members]
            features = prompt_features(ctx.model, them, ctx.plan.length, ctx.plan.tokens)
            if self.selection == "diverse":
                return [members[i] for i in representatives(features, room)]
            return [members[i] for i in herd(features, room, "repo" if self.selection == "herding-repo" else "paper")]

        kept = grouped_keep(memory["groups"], groups, self.capacity, chosen)
        rows = rows_kept(kept, memory["rows"], new, name)
        return {"rows": rows, "groups": [memory["groups"][i] if old else groups[i] for old, i in kept]}


@dataclass(frozen=True)
class SpacedReplay(Method):
    """Add the loss of a second batch, drawn from memory, to every `every`-th step (ER, arXiv:1902.10486, algorithm 1).

    The paper's own form at the defaults: every step learns from the new batch and from one of stored examples, with a
    reservoir as memory. Differs from the paper: the two means are added, not taken over both batches together, so that
    `strength` weighs them; and examples are offered to the memory at the end of an experience. Extra compute: forward
    and backward passes for `rows` examples in every `every`-th step. Memory: the text of `capacity` examples.

    Args:
        strength: weight of the replayed loss beside the new one.
        every: steps from one replay to the next.
        rows: stored examples in a replayed batch, drawn anew each time.
        capacity: most examples kept in all.
        selection: as of `Replay`.
    """

    keeps: ClassVar[str] = "capacity examples, in all"
    computes: ClassVar[str] = "a gradient of stored rows, in its steps"
    reads_batch: ClassVar[bool] = False

    strength: float = 1.0
    every: int = 1
    rows: int = 8
    capacity: int = 1000
    selection: Selection = "reservoir"

    def __post_init__(self) -> None:
        """Refuse counts below one and a negative weight."""
        if not 0 <= self.strength < float("inf") or min(self.every, self.rows, self.capacity) < 1:
            raise ConfigError(f"{self}: strength is 0 or more, and finite; every, rows and capacity are 1 or more.")
        if self.selection not in ("reservoir", "balanced", "classes"):
            raise ConfigError(f"{self}: selection is reservoir, balanced or classes.")

    def init(self, model: LanguageModel) -> Memory:
        """An empty buffer."""
        return {"rows": [], "groups": [], "seen": 0}

    def loss(self, memory: Memory, batch: Batch, ctx: Context) -> torch.Tensor | float:
        """The mean loss of a batch of stored examples, in the steps whose turn it is."""
        if not memory["rows"] or not self.strength or (ctx.step + 1) % self.every:
            return 0.0
        drawn = turns(len(memory["rows"]), min(self.rows, len(memory["rows"])), ctx.rng("replay"))
        batches = list(ctx.batches([Example.from_row(memory["rows"][i]) for i in drawn]))
        weight = sum(b.weight for b in batches)
        return self.strength * torch.stack([ctx.loss(b) * (b.weight / weight) for b in batches]).sum()

    def end(self, memory: Memory, ctx: Context) -> Memory:
        """The buffer after the experience's own examples were offered to it."""
        return offered(memory, self.selection, self.capacity, ctx)


def replayed(fraction: float, course: Course, new: int, seen: int) -> int:
    """How many stored examples go among `new` ones after `seen` experiences, so that their share is the fraction."""
    times = seen if course == "growing" else 1
    return round(times * fraction / (1 - fraction) * new)


def offered(memory: Memory, selection: Selection, capacity: int, ctx: Context) -> Memory:
    """A buffer after all examples of the experience were offered to it; only those that it keeps are read.

    Classes alone are read off every example.

    Args:
        memory: "rows", the "groups" that share the room, and how many examples were "seen"; it stays as it is.
        selection: see `Replay`.
        capacity: most rows to keep.
        ctx: the end of the experience.
    """
    train, name, rng = ctx.experience.train, ctx.experience.name, ctx.rng("keep")
    labels = ctx.experience.labels
    rows, old = memory["rows"], memory["groups"]
    groups: Sequence[str] = ()
    if selection == "reservoir":
        kept = reservoir_keep(len(rows), memory["seen"], len(train), capacity, rng)
    elif selection == "balanced":
        kept = balanced_keep(old, name, len(train), capacity, rng)
    else:
        groups = [group_of(e, name, labels) for e in train] if labels else [name] * len(train)
        kept = grouped_keep(old, groups, capacity, lambda members, room: _sampled(members, room, rng))
    return {
        "rows": rows_kept(kept, rows, train, name),
        "groups": [old[i] if was else (groups[i] if groups else name) for was, i in kept],
        "seen": memory["seen"] + len(train),
    }


def _sampled(members: Kept, room: int, rng: torch.Generator) -> Kept:
    return [members[i] for i in torch.randperm(len(members), generator=rng)[:room].tolist()]


def _require(method: Method, fraction: float, least: int) -> None:
    if not 0 <= fraction < 1 or least < 1:
        raise ConfigError(f"{method}: fraction is in [0, 1), capacity and candidates 1 or more.")
