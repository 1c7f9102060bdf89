"""Several models of one base become one, in blocks of rows: whatever the rule, memory is bounded and nothing is lost.

A rule reads each model as often as it has to: once to fold it, and before that for what it surveys and gathers.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from everlearn.errors import ConfigError
from everlearn.merge_rules import Draw, Facts, Merging, Share, fact_of
from everlearn.merging import Running, Vector
from everlearn.randomness import generator
from everlearn.tensor_files import Held, Rows, extent
from everlearn.types import Progress, Silent
from everlearn.weights import Tensors

MEMORY = 2**28
LIVE = 128
"""Bytes that an entry of a block takes while it is merged: itself, its base, running tensors, what is in between."""


@dataclass(frozen=True)
class Model:
    """A model of the base, by what differs from it: whole tensors, or the factors of a change.

    Args:
        name: for messages.
        whole: tensors in place of the base's, by the base's names.
        pairs: (rows, r) and (r, columns) whose product is added to the base's tensor.
    """

    name: str
    whole: Mapping[str, Rows] = field(default_factory=dict)
    pairs: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def change(self, tensor: str, start: int, base: Tensor) -> Tensor:
        """What this model has changed of a block of the base that begins at a row."""
        stop = start + len(base)
        if tensor in self.whole:
            return self.whole[tensor].rows(start, stop).to(base.dtype) - base
        if tensor in self.pairs:
            left, right = self.pairs[tensor]
            return (left[start:stop].double() @ right.double()).to(base.dtype)
        return torch.zeros_like(base)


@dataclass(frozen=True)
class Combination:
    """What is merged, and how.

    Args:
        rule: a merging method.
        base: the base's tensors by name.
        models: of this base.
        weights: one for each model; none means 1 each.
        seed: of what is drawn at random.
        memory: about how many bytes blocks may take.
        progress: told how far it is.

    Raises:
        ConfigError: if weights and models do not match, or the rule takes none, or needs more memory than it may take.
    """

    rule: Merging
    base: Mapping[str, Rows]
    models: Sequence[Model]
    weights: Sequence[float] = ()
    seed: int = 0
    memory: int = MEMORY
    progress: Progress = field(default_factory=Silent)

    def __post_init__(self) -> None:
        """Refuse what does not go together."""
        if not self.models:
            raise ConfigError("there is nothing to merge into the base; name one model or more.")
        if self.weights and not self.rule.weighs:
            raise ConfigError(f"{self.rule} takes no weights; leave them out.")
        if self.weights and len(self.weights) != len(self.models):
            raise ConfigError(f"{len(self.weights)} weights for {len(self.models)} models; give one for each.")
        largest = max(self.floating, key=lambda n: torch.Size(self.base[n].shape).numel(), default=None)
        if self.rule.whole and largest is not None:
            needed = torch.Size(self.base[largest].shape).numel() * LIVE
            if needed > self.memory:
                raise ConfigError(
                    f"{self.rule} takes whole tensors, and {largest} needs about {needed >> 20} MiB, more than the "
                    f"{self.memory >> 20} it may take; allow more."
                )

    @property
    def floating(self) -> list[str]:
        """The tensors that are merged; others, such as counts, stay the base's."""
        return [name for name, tensor in self.base.items() if tensor.dtype.is_floating_point]

    def blocks(self) -> Iterator[tuple[str, Iterator[Tensor]]]:
        """Each tensor of the base by name, in order, with its merged blocks in the base's dtype.

        Each tensor's blocks have to be read before the next one is asked for.
        """
        surveys = [self._survey(index) for index in range(len(self.models))]
        names, count = self.floating, len(self.base)
        folded = ((n, base, running) for n in names for base, running in self._folded(n, surveys))
        facts = self.rule.gather(folded, surveys)
        for done, name in enumerate(self.base):
            self.progress.update("merging", done, count, name)
            if name in names:
                yield name, self._closed(name, surveys, facts)
            else:
                yield name, (self.base[name].rows(a, b) for a, b in self._cuts(name))
        self.progress.update("merging", count, count)

    def _closed(self, name: str, surveys: Sequence[Facts], facts: Facts) -> Iterator[Tensor]:
        for base, running in self._folded(name, surveys):
            yield self.rule.close(base, running, fact_of(facts, name)).to(self.base[name].dtype)

    def _survey(self, index: int) -> Facts:
        stage, names = f"measuring {self.models[index].name}", self.floating
        vector: Vector = {n: partial(self._changes, index, n, (stage, i)) for i, n in enumerate(names)}
        facts = self.rule.survey(vector, self._draw(index))
        self.progress.update(stage, len(names), len(names))
        return facts

    def _changes(self, index: int, name: str, at: tuple[str, int]) -> Iterator[Tensor]:
        self.progress.update(at[0], at[1], len(self.base), name)
        for start, stop in self._cuts(name):
            yield self.models[index].change(name, start, self._read(name, start, stop))

    def _folded(self, name: str, surveys: Sequence[Facts]) -> Iterator[tuple[Tensor, Running]]:
        shares = [
            Share(self.weights[i] if self.weights else 1.0, fact_of(facts, name), self._draw(i)(name))
            for i, facts in enumerate(surveys)
        ]
        for start, stop in self._cuts(name):
            base, running = self._read(name, start, stop), None
            for model, share in zip(self.models, shares, strict=True):
                running = self.rule.fold(running, model.change(name, start, base), share)
            assert running is not None
            yield base, running

    def _read(self, name: str, start: int, stop: int) -> Tensor:
        block = self.base[name].rows(start, stop)
        return block.to(torch.promote_types(block.dtype, torch.float32)) if block.dtype.itemsize > 1 else block.float()

    def _cuts(self, name: str) -> Iterator[tuple[int, int]]:
        rows, columns = extent(self.base[name].shape)
        size = rows if self.rule.whole else max(1, self.memory // (LIVE * max(columns, 1)))
        yield from ((start, min(rows, start + size)) for start in range(0, rows, max(size, 1)))

    def _draw(self, index: int) -> Draw:
        return lambda name: generator(self.seed, "expert", index, name)


def merge_weights(
    rule: Merging, base: Tensors, models: Sequence[Tensors], weights: Sequence[float] = (), seed: int = 0
) -> dict[str, Tensor]:
    """Weights in memory as one; as `everlearn merge` does it with files.

    Args:
        rule: a merging method, such as `TIES(density=0.2)`.
        base: by name; what a model does not name, it has not changed.
        models: fine-tuned from the base.
        weights: one for each model; none means 1 each.
        seed: of what is drawn at random.

    Raises:
        ConfigError: if these do not go together.
    """
    held = [Model(str(i + 1), {n: Held(w) for n, w in m.items()}) for i, m in enumerate(models)]
    task = Combination(rule, {n: Held(w) for n, w in base.items()}, held, weights, seed)
    return {name: torch.cat(list(blocks)).reshape(base[name].shape) for name, blocks in task.blocks()}
