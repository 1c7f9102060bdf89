"""Anchors in function space: penalties for saying something else than an older version, on new inputs or on old ones.

On *new* inputs (`LwF`, `NewInputsKL`) nothing is stored but the reference: what the old version would say to the new
experience's texts is kept, which protects old abilities as far as new texts exercise them. On *old* inputs
(`OldInputsKL`) examples of earlier experiences are stored, and what was said to them is kept: what forgetting is.

The reference is exact, over the whole vocabulary, and costs one more forward pass without gradients. Its weights are
kept, not its answers: the best logits of each token would be an approximation and a pass of their own, and 64 of them
for forty thousand tokens already take the room of a LoRA adapter of rank 16 on the embedded model. It is the version
there was when `begin` was asked: a method that adds parameters after that cannot be chained with these, and raises.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from everlearn.data.buffers import balanced_keep
from everlearn.errors import ConfigError, MethodError
from everlearn.examples import Batch, Example, Step
from everlearn.method import Context, Method, Tensors
from everlearn.methods.quadratics import require_strength
from everlearn.models.language_model import LanguageModel
from everlearn.models.logprobs import divergence_from
from everlearn.models.recall import recalled
from everlearn.objectives.next_token import NextToken
from everlearn.types import Memory

Reference = Literal["previous", "base"]
Direction = Literal["forward", "reverse"]


@dataclass(frozen=True)
class LwF(Method):
    """Say about the new inputs what the last version says (learning without forgetting, arXiv:1606.09282).

    Adds strength * T^2 * KL(softmax(z_old / T) || softmax(z / T)), the mean over the new experience's own supervised
    tokens; T^2 keeps the gradient's size (arXiv:1503.02531). At first the last version is the base model.

    Differs from the paper: a language model has one head for all experiences, so that no new head is warmed up first.

    Memory: the trained parameters once, in their own dtype, however many experiences.

    Args:
        strength: alpha.
        temperature: T; above 1 it gives more weight to what is improbable.
        reference: whose answers are kept, the last version's or those of the model before anything was learned.
    """

    keeps: ClassVar[str] = "4 P in all"
    computes: ClassVar[str] = "a forward pass of the old model, each batch"

    strength: float = 1.0
    temperature: float = 2.0
    reference: Reference = "previous"

    def __post_init__(self) -> None:
        """Refuse numbers without a meaning."""
        require_strength(self, self.strength)
        if not 0 < self.temperature < float("inf"):
            raise ConfigError(f"{self}: temperature is more than 0, and finite.")

    def begin(self, memory: Memory, ctx: Context) -> Memory:
        """The reference's weights."""
        return {"weights": _kept(memory, ctx, self.reference)}

    def loss(self, memory: Memory, batch: Batch, ctx: Context) -> Tensor | float:
        """The divergence on the batch itself."""
        distance = _divergence(ctx.model, batch, memory["weights"], self.temperature)
        return self.strength * self.temperature**2 * distance


@dataclass(frozen=True)
class NewInputsKL(Method):
    """Stay near a reference's distribution on the new inputs (the KL penalty of RL, arXiv:1909.08593).

    Adds strength * KL, the mean over the new experience's own supervised tokens, exact over the vocabulary. In nats,
    its unit is that of the objective. How far a model strays on new inputs predicts what it forgets in the experiments
    of arXiv:2509.04259, and need not bound it: arXiv:2607.04364 calls it the wrong constraint. `OldInputsKL` is the
    other one.

    Differs from the paper: the tokens are those of the batch, whether the model drew them or not.

    Memory: the trained parameters once, in their own dtype, however many experiences.

    Args:
        strength: beta.
        reference: "base" is the model before anything was learned, "previous" the last version.
        direction: "forward" is KL(reference || model), the one measured in arXiv:2509.04259, which forbids to drop what
            the reference does; "reverse" is KL(model || reference), reinforcement learning's, which forbids to add.
    """

    keeps: ClassVar[str] = "4 P in all"
    computes: ClassVar[str] = "a forward pass of the old model, each batch"

    strength: float = 1.0
    reference: Reference = "base"
    direction: Direction = "forward"

    def __post_init__(self) -> None:
        """Refuse a negative strength."""
        require_strength(self, self.strength)

    def begin(self, memory: Memory, ctx: Context) -> Memory:
        """The reference's weights."""
        return {"weights": _kept(memory, ctx, self.reference)}

    def loss(self, memory: Memory, batch: Batch, ctx: Context) -> Tensor | float:
        """The divergence on the batch itself."""
        return self.strength * _divergence(ctx.model, batch, memory["weights"], forward=self.direction == "forward")


@dataclass(frozen=True)
class OldInputsKL(Method):
    """Stay near a reference's distribution on stored old inputs (functional regularisation, arXiv:2004.14070).

    In each step draws `batch_size` rows of earlier experiences' stored examples and adds strength * KL, the mean over
    their supervised tokens, exact over the vocabulary. Unlike replay it does not teach their answers again: what the
    reference had wrong stays as it was. Nothing is added while nothing is stored, in the first experience.

    Differs from the paper: a divergence between distributions stands in place of a Gaussian process's distance, and
    what is stored is a uniform sample, the same room for each experience.

    Memory: at most `capacity` examples as text, and the trained parameters once, in their own dtype, however many
    experiences. To keep one set of weights for each experience, so that each example is held to the version that
    learned it, would grow with their number: "previous" holds it to the last one, which was itself held to the one
    before.

    Args:
        strength: nats charged for a nat of divergence.
        reference: "previous" is the last version; "base" the model before anything was learned, which keeps old
            abilities where the stored examples are not yet learned ones.
        direction: "forward" is KL(reference || model), "reverse" KL(model || reference).
        capacity: most examples kept in all.
        batch_size: rows of stored examples in a step; each costs two forward passes and a backward one.
    """

    keeps: ClassVar[str] = "4 P and the stored examples, in all"
    computes: ClassVar[str] = "passes of both models over stored rows, each step"
    reads_batch: ClassVar[bool] = False
    strength: float = 1.0
    reference: Reference = "previous"
    direction: Direction = "forward"
    capacity: int = 1000
    batch_size: int = 8

    def __post_init__(self) -> None:
        """Refuse numbers without a meaning."""
        require_strength(self, self.strength)
        if self.capacity < 1 or self.batch_size < 1:
            raise ConfigError(f"{self}: capacity and batch_size are 1 or more.")

    def begin(self, memory: Memory, ctx: Context) -> Memory:
        """The reference's weights."""
        rows = [] if memory is None else memory["rows"]
        return {"rows": rows, "weights": _kept(memory, ctx, self.reference)}

    def loss(self, memory: Memory, batch: Batch, ctx: Context) -> Tensor | float:
        """The divergence on some stored examples; it does not depend on the batch."""
        rows = memory["rows"]
        if not rows:
            return 0.0
        step, forward = self._drawn(rows, ctx), self.direction == "forward"
        found = [_divergence(ctx.model, batch, memory["weights"], forward=forward) for batch in step.batches]
        parts = [batch.weight / step.weight * value for batch, value in zip(step.batches, found, strict=True)]
        return self.strength * torch.stack(parts).sum()

    def end(self, memory: Memory, ctx: Context) -> Memory:
        """Some of the experience's examples join those stored."""
        rows, train, name = memory["rows"], ctx.experience.train, ctx.experience.name
        kept = balanced_keep([r["origin"] for r in rows], name, len(train), self.capacity, ctx.rng("keep"))
        return memory | {"rows": [rows[i] if old else train[i].row() | {"origin": name} for old, i in kept]}

    def _drawn(self, rows: Sequence[Mapping[str, object]], ctx: Context) -> Step:
        """Rows of stored examples, read as text whatever the present objective is; of a long document a few windows."""
        rng = ctx.rng("old")
        chosen = torch.randperm(len(rows), generator=rng)[: self.batch_size].tolist()
        seed = int(torch.randint(2**31, (), generator=rng))
        plan = replace(ctx.plan, batch_size=self.batch_size, seed=seed, start=0)
        return next(NextToken().steps(ctx.model, [Example.from_row(rows[i]) for i in chosen], plan))


def _kept(memory: Memory, ctx: Context, reference: Reference) -> dict[str, Tensor]:
    """The reference's values of the parameters that learn now; of a base, as they were when they first appeared."""
    now = {name: p.detach().clone() for name, p in ctx.trainable().items()}
    return now if memory is None or reference == "previous" else now | memory["weights"]


def _divergence(
    model: LanguageModel, batch: Batch, weights: Tensors, temperature: float = 1.0, forward: bool = True
) -> Tensor:
    """The mean divergence from what the model says with other weights; see `divergence_from`."""
    if late := sorted(model.trainable().keys() - weights.keys()):
        raise MethodError(
            f"{late[0]} ({len(late)} in all) has joined the model after the experience began, so that what was said "
            "without it cannot be recalled; leave out the method that adds it, or the divergence."
        )
    with recalled(model, weights):
        said = model.said(batch)
    return model.token_statistic(batch, divergence_from(said, temperature, forward)).mean()
