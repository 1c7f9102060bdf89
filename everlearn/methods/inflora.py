"""Adapters that cannot disturb: what they read is orthogonal to what old experiences have fed to the layer."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeVar

import torch
from torch import Tensor

from everlearn.errors import ConfigError
from everlearn.method import Context, Method
from everlearn.models.bank import Shape
from everlearn.models.bank import grow as grow_banks
from everlearn.models.language_model import LanguageModel
from everlearn.models.lora import chosen
from everlearn.models.moments import input_moments
from everlearn.models.subspace import Subspace, grow, spectrum
from everlearn.randomness import permutation
from everlearn.types import Memory

Formula = Literal["paper", "repo"]
T = TypeVar("T")


@dataclass(frozen=True)
class InfLoRA(Method):
    """Learn B alone, of an adapter whose A is orthogonal to all old inputs (InfLoRA, arXiv:2404.00228, Algorithm 1).

    y = W x + sum_i B_i A_i x. Before an experience, the rows of A_t are set to the strongest directions of its inputs
    off the subspace M of old inputs, and stay; B_t, zero at first, learns. What lies in M goes through the layer as
    before. After it, DualGPM adds to M the fewest directions that hold a fraction epsilon_t of the inputs' energy, and
    keeps a basis of M or of its complement, whichever is smaller. epsilon_t rises from `energy` towards `last_energy`
    in steps of 1 / experiences of the way.

    The official code applies the threshold to squared singular values of the second moment, so to fourth powers of
    inputs, takes the directions from that moment projected on one side, and divides A by sqrt(3): `formula="repo"`.
    Differs from both: directions without energy are zero in A, where they would be noise that may lie in M; inputs are
    those of all tokens but padding; the loss is the objective's own, over all tokens, where the official code hides the
    classes of other experiences.

    Folds into the base exactly. Memory for each adapted layer: at most 2 in^2 bytes for M, and 4 rank in bytes for each
    experience; a version grows by 4 rank out bytes for each experience.

    Args:
        rank: r, of each adapter.
        targets: leaf names of the layers to adapt; the paper's are keys and values.
        energy: epsilon at the first experience.
        last_energy: epsilon towards which it rises; it is not reached.
        experiences: in how many steps it rises; then it stays.
        samples: examples from which the inputs of an experience are known.
        formula: see above.
    """

    keeps: ClassVar[str] = "2 in^2 a layer, in all; 4 r in a layer and experience"
    computes: ClassVar[str] = "moments of inputs and an SVD a layer, at both ends"

    rank: int = 10
    targets: str | tuple[str, ...] = ("k_proj", "v_proj")
    energy: float = 0.98
    last_energy: float = 1.0
    experiences: int = 10
    samples: int = 256
    formula: Formula = "paper"

    def __post_init__(self) -> None:
        """Refuse numbers without a meaning."""
        if min(self.rank, self.experiences, self.samples) < 1 or not 0 < self.energy <= self.last_energy <= 1:
            raise ConfigError(f"{self}: rank, experiences and samples are 1 or more, 0 < energy <= last_energy <= 1.")

    def init(self, model: LanguageModel) -> Memory:
        """No adapter, and no old inputs."""
        return {"A": {}, "old": {}, "count": 0}

    def begin(self, memory: Memory, ctx: Context) -> Memory:
        """The A of a new adapter, from the new inputs."""
        new = _once(self._moments(ctx), lambda name, moment: self._directions(_subspace(memory, name, moment), moment))
        old = {name: memory["A"].get(name, []) for name in new}
        return memory | {"A": {n: [*old[n], a] for n, a in new.items()}, "count": memory["count"] + 1}

    def params(self, memory: Memory, model: LanguageModel) -> LanguageModel:
        """A bank on each target layer, with the A of the memory; the last B learns, everything else is frozen."""
        for name, bank in grow_banks(model.module, self.targets, [Shape(self.rank)] * memory["count"]).items():
            bank.A.requires_grad_(False)
            with torch.no_grad():
                for mine, a in zip(bank.A, memory["A"].get(name, []), strict=True):
                    mine.copy_(a)
        return model

    def end(self, memory: Memory, ctx: Context) -> Memory:
        """The subspace of old inputs, with those of this experience as they are now."""
        threshold, squared = self.threshold(memory["count"] - 1), self.formula == "repo"

        def more(name: str, moment: Tensor) -> Memory:
            found = grow(_subspace(memory, name, moment), moment, threshold, squared)
            return {"basis": found.basis.cpu().contiguous(), "complement": found.complement}

        return memory | {"old": _once(self._moments(ctx), more)}

    def threshold(self, count: int) -> float:
        """The fraction of energy to keep, when so many experiences were learned before."""
        rise = (self.last_energy - self.energy) / self.experiences
        return self.energy + rise * min(count, self.experiences - 1)

    def _directions(self, old: Subspace, moment: Tensor) -> Tensor:
        """(rank, in) the strongest directions as rows."""
        vectors = spectrum(moment, old, self.formula == "repo")[0][:, : self.rank]
        a = moment.new_zeros(self.rank, len(moment))
        a[: vectors.shape[1]] = vectors.T / (math.sqrt(3) if self.formula == "repo" else 1.0)
        return a.cpu()

    def _moments(self, ctx: Context) -> dict[str, Tensor]:
        train = ctx.experience.train
        picked = permutation(len(train), ctx.seed, ctx.seen, "inputs", *ctx.place)[: self.samples]
        names = chosen(ctx.model.module, self.targets)
        return input_moments(ctx.model, names, ctx.batches([train[i] for i in picked]))


def _once(moments: Mapping[str, Tensor], work: Callable[[str, Tensor], T]) -> dict[str, T]:
    """What the work makes of each layer's moment, done once for layers that share one."""
    done: dict[int, T] = {}
    for name, moment in moments.items():
        if id(moment) not in done:
            done[id(moment)] = work(name, moment)
    return {name: done[id(moment)] for name, moment in moments.items()}


def _subspace(memory: Memory, name: str, moment: Tensor) -> Subspace:
    old = memory["old"].get(name)
    if old is None:
        return Subspace.empty(moment)
    # A copy, since products round otherwise where memory is laid out otherwise, as it is in what a file gives back.
    return Subspace(old["basis"].to(moment, copy=True), old["complement"])
