"""Sparse change: an experience may move only some weights, or keeps only some of what it moved."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from everlearn.errors import ConfigError, MethodError
from everlearn.examples import Batch
from everlearn.method import Context, Method, Tensors
from everlearn.methods.masks import Bits, any_of, largest, pack_bits, unpack_bits
from everlearn.methods.quadratics import copies, count, require_strength, total
from everlearn.models.adapted import adapted
from everlearn.types import Memory


@dataclass(frozen=True)
class FAPM(Method):
    """Keep of an experience's change only what is large and sits on large weights (FAPM, arXiv:2509.08255).

    After learning, each element of the change dW = W - W0 is scored by |dW| - mean|W0| * |dW| / |W0|: a change that is
    large beside the weight it falls on is what makes a model forget. The highest scores are kept, and everything else
    goes back to W0. It needs no data, and training is not touched.

    The paper fine-tunes once, so that W0 is the pre-trained model; here it is the last version, which is the same in
    the first experience. mean|W0| is taken over each tensor, as in the paper. That the scores are ranked within each
    tensor by default, so that none gives up all it learned, is a choice. A zero in W0 keeps its value.

    Memory: none.

    Args:
        keep: fraction of the elements whose change is kept, in (0, 1]; the paper's is 0.1.
        scope: "tensor" keeps this fraction of each tensor, "all" of all tensors together.

    Raises:
        MethodError: with adapters, whose change of a layer is not sparse whatever A and B are; train whole weights.
    """

    keeps: ClassVar[str] = "nothing"
    computes: ClassVar[str] = "a sort of P, at the end"

    keep: float = 0.1
    scope: Literal["tensor", "all"] = "tensor"

    def __post_init__(self) -> None:
        """Refuse a fraction that keeps nothing."""
        if not 0 < self.keep <= 1:
            raise ConfigError(f"{self}: keep is in (0, 1].")

    def merge(self, memory: Memory, before: Tensors, after: Tensors, ctx: Context) -> Tensors:
        """The weights before, with the part of the change that is kept."""
        if layers := adapted(ctx.model.module):
            raise MethodError(
                f"{self} chooses single weights, and {next(iter(layers))} learns through an adapter, whose product "
                "changes all of them; leave LoRA out, or FAPM."
            )
        scores = {name: _forgetting_aware(before[name], w.to(before[name].device)) for name, w in after.items()}
        kept = self._kept(scores)
        return {name: torch.where(kept[name].to(w.device), w, before[name].to(w.device)) for name, w in after.items()}

    def _kept(self, scores: Tensors) -> dict[str, Tensor]:
        if self.scope == "tensor":
            return {name: largest(s, round(self.keep * s.numel())) for name, s in scores.items()}
        chosen = largest(torch.cat([s.flatten() for s in scores.values()]), round(self.keep * count(scores)))
        parts = torch.split(chosen, [s.numel() for s in scores.values()])
        return {name: part.view(s.shape) for (name, s), part in zip(scores.items(), parts, strict=True)}


@dataclass(frozen=True)
class SparseMovement(Method):
    """Charge for moving the few weights that old experiences have moved most (CPO, arXiv:2607.04364).

    CPO replaces the divergence on old tasks, whose data are gone, by a sparse penalty on the movement of parameters:
    what a task has moved most is taken for what its behaviour hangs on. The `fraction` of each tensor that an
    experience has moved farthest joins the mask, and strength * mean over tensors of the mean |theta - theta_last| over
    the tensor's mask is added, around the last version.

    The formula is that of the authors' release (compute_importance_mask.py and grpo_trainer_cl.py, as kept in
    YuliangCai667/Multimodal-Continual-RLVR); the paper's equations were not at hand. The release sums over tensors with
    lambda = 1: the mean stands in its place, so that a strength means the same on a model of another depth. There the
    objective is a policy gradient, and here any.

    Memory: 4 bytes and a bit a trained parameter in all (8 bytes and a bit in float64), however many experiences.

    Args:
        strength: nats per token charged for a mean drift of 1. The release's, on a model of as many tensors, is 1 a
            tensor.
        fraction: of each tensor, rounded down, protected after an experience.
    """

    keeps: ClassVar[str] = "4 P in all"
    computes: ClassVar[str] = "a sum over P, each step"
    reads_batch: ClassVar[bool] = False
    strength: float = 500.0
    fraction: float = 0.1

    def __post_init__(self) -> None:
        """Refuse numbers without a meaning."""
        require_strength(self, self.strength)
        if not 0 <= self.fraction <= 1:
            raise ConfigError(f"{self}: fraction is in [0, 1].")

    def begin(self, memory: Memory, ctx: Context) -> Memory:
        """The anchor: the last version."""
        return {"anchor": copies(ctx.trainable()), "mask": {} if memory is None else memory["mask"]}

    def loss(self, memory: Memory, batch: Batch, ctx: Context) -> Tensor | float:
        """The penalty; it does not depend on the batch."""
        parameters, anchor, terms = ctx.trainable(), memory["anchor"], []
        for name, bits in memory["mask"].items():
            if name in parameters and bits.any():
                held = unpack_bits(bits, anchor[name].shape).to(parameters[name].device)
                moved = parameters[name].to(anchor[name].dtype) - anchor[name].to(parameters[name].device)
                terms.append((held * moved.abs()).sum() / held.sum())
        return self.strength * total(terms) / max(1, len(terms))

    def end(self, memory: Memory, ctx: Context) -> Memory:
        """What the experience has moved farthest joins the mask."""
        anchor = memory["anchor"]
        moved = {n: (t - anchor[n]).abs() for n, t in copies(ctx.trainable()).items() if n in anchor}
        new = {n: pack_bits(largest(m, int(self.fraction * m.numel())) & (m > 0)) for n, m in moved.items()}
        return memory | {"mask": any_of([memory["mask"], new])}


@dataclass(frozen=True)
class PackNet(Method):
    """Give each experience weights of its own, which no later one moves (PackNet, arXiv:1711.05769).

    An experience trains all weights that no earlier one owns. Afterwards the smallest of them in each tensor are
    pruned, and free for those to come; the others are the experience's own, and fixed from then on: their update is
    zero, so that neither momentum nor weight decay moves them by a bit. Vectors (biases, norms) are not pruned: they
    learn in the first experience and stay.

    What an experience leaves is to be had again, bit for bit, whatever was learned since: see `subnetwork`. A version
    itself uses the weights of all experiences, so that an old one's function changes with it; the paper takes the old
    weights alone when it is told the task.

    Differs from the paper in its default: without `retrain_after` the kept weights are not trained on after pruning.

    Memory: a bit a trained parameter for each experience (n / 8 bytes). While an experience is learned with
    `retrain_after` a bit more, the weights once during one step, and once all along where `free` is "restore".

    Args:
        prune: fraction of the free weights of each tensor that is pruned after an experience, in [0, 1).
        free: what pruned weights become. "zero", as in the paper, suits a network trained from the start, and adapters;
            "restore" gives them the value they had before, and prunes by how far they have moved, which leaves a
            pre-trained model whole.
        retrain_after: steps of an experience after which it is pruned, so that the rest trains what is kept. The
            paper's proportion is a third of the steps after pruning. None, or more than there are, prunes at the end.
    """

    keeps: ClassVar[str] = "P / 8 an experience"
    computes: ClassVar[str] = "copies of P, each step"

    prune: float = 0.5
    free: Literal["zero", "restore"] = "zero"
    retrain_after: int | None = None

    def __post_init__(self) -> None:
        """Refuse numbers without a meaning."""
        if not 0 <= self.prune < 1 or (self.retrain_after is not None and self.retrain_after < 1):
            raise ConfigError(f"{self}: prune is in [0, 1), retrain_after 1 or more.")

    def begin(self, memory: Memory, ctx: Context) -> Memory:
        """What earlier experiences own, and where pruned weights will go back to."""
        kept = {"masks": [] if memory is None else memory["masks"]}
        return kept | {"start": copies(ctx.trainable())} if self.free == "restore" else kept

    def grad(self, memory: Memory, grads: Tensors, ctx: Context) -> Tensors:
        """No gradient where nothing moves: clipping sees what learns alone."""
        held = _shaped(self._held(memory), grads)
        return {n: torch.where(held[n], torch.zeros_like(g), g) if n in held else g for n, g in grads.items()}

    def update(self, memory: Memory, update: Tensors, ctx: Context) -> Tensors:
        """No update of what is fixed; the step after pruning takes pruned weights where they belong."""
        held, gap = _shaped(self._held(memory), update), memory.get("gap", {})
        still = {n: gap[n].to(u) if n in gap else torch.full_like(u, -0.0) for n, u in update.items()}  # x + -0.0 is x
        return {n: torch.where(held[n], still[n], u) if n in held else u for n, u in update.items()}

    def step(self, memory: Memory, grads: Tensors, update: Tensors, ctx: Context) -> Memory:
        """Prune, where the experience is trained on afterwards."""
        rest = {name: value for name, value in memory.items() if name != "gap"}
        if ctx.step + 1 != self.retrain_after:
            return rest
        now, owned = copies(ctx.trainable()), any_of(memory["masks"])
        chosen = self._chosen(now, memory)
        pruned = _shaped({n: ~(b | owned[n]) if n in owned else ~b for n, b in chosen.items()}, now)
        ends = {n: torch.zeros_like(t) for n, t in now.items()} | dict(memory.get("start", {}))
        gap = {n: torch.where(pruned[n], ends[n] - t, -0.0) for n, t in now.items()}
        return rest | {"chosen": chosen, "gap": gap}

    def end(self, memory: Memory, ctx: Context) -> Memory:
        """The experience's own weights join those that are fixed."""
        chosen = memory["chosen"] if "chosen" in memory else self._chosen(copies(ctx.trainable()), memory)
        return {"masks": [*memory["masks"], chosen]}

    def merge(self, memory: Memory, before: Tensors, after: Tensors, ctx: Context) -> Tensors:
        """What nobody owns is pruned."""
        return self.subnetwork(memory, after, before, len(memory["masks"]))

    def subnetwork(self, memory: Memory, weights: Tensors, base: Tensors, experiences: int) -> dict[str, Tensor]:
        """The weights that the first so many experiences have left, from those of any later version.

        Args:
            memory: of the later version.
            weights: of the later version.
            base: the values of free weights where `free` is "restore", by name: those before anything was learned.
            experiences: how many of the first to take.
        """
        owned = _shaped(any_of(memory["masks"][:experiences]), weights)
        ends = base if self.free == "restore" else {n: torch.zeros_like(w) for n, w in weights.items()}
        return {n: torch.where(owned[n], w, ends[n].to(w)) if n in owned else w for n, w in weights.items()}

    def _held(self, memory: Memory) -> dict[str, Tensor]:
        """What does not move now: others' weights, and while an experience is trained on, what was pruned."""
        return any_of(memory["masks"]) | {name: ~bits for name, bits in memory.get("chosen", {}).items()}

    def _chosen(self, now: Tensors, memory: Memory) -> dict[str, Tensor]:
        """The free weights that the experience keeps: the largest, or those that moved farthest."""
        owned, start = _shaped(any_of(memory["masks"]), now), memory.get("start", {})
        chosen = {}
        for name, value in now.items():
            size = (value - start[name] if name in start else value).abs()
            free = ~owned[name] if name in owned else torch.ones_like(size, dtype=torch.bool)
            kept = round((1 - self.prune) * int(free.sum())) if value.ndim > 1 else int(free.sum())
            chosen[name] = pack_bits(largest(torch.where(free, size, -torch.inf), kept))
        return chosen


def _forgetting_aware(before: Tensor, after: Tensor) -> Tensor:
    """FAPM's score of each element; what falls on a zero ranks last."""
    start, change = before.abs(), (after - before).abs()
    return torch.where(start > 0, change - start.mean() * change / start, -torch.inf)


def _shaped(bits: Bits, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Masks of the tensors' own shapes and devices, for those that have one."""
    return {n: unpack_bits(b.to(like[n].device), like[n].shape) for n, b in bits.items() if n in like}
