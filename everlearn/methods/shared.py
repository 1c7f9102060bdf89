"""One adapter for all experiences, kept from forgetting by how it starts, is routed, and is merged."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from everlearn.errors import ConfigError
from everlearn.examples import Batch
from everlearn.method import Context, Method
from everlearn.methods.adapters import require_rank
from everlearn.models.language_model import LanguageModel
from everlearn.models.lora import adapters, wrap, wrap_with
from everlearn.models.routing_matrix import RoutingLinear, routings
from everlearn.types import Memory


@dataclass(frozen=True)
class SLAO(Method):
    """Start from the last adapter, its A made orthogonal, and merge B over time (SLAO, arXiv:2512.23017).

    Experience t starts at A = Q^T, where Q R = A_{t-1}^T with a positive diagonal of R, and at the B that experience
    t - 1 has trained. The version that is kept has A_t, and B <- B + (B_t - B) / sqrt(t) from one version to the next.
    A start is thus no version: it may score otherwise than the version before. Folds into the base exactly. Memory for
    each adapted layer: 8 rank out bytes, however many experiences.

    Args:
        rank: r.
        alpha: scales the update by alpha / rank; None takes 2 * rank.
        targets: leaf names of the layers to adapt, such as ("q_proj", "v_proj"); "all-linear" takes all but the head.
        dropout: probability of dropping each input of A while learning.
    """

    keeps: ClassVar[str] = "8 r out a layer, in all"
    computes: ClassVar[str] = "a QR a layer, at the beginning"

    rank: int = 16
    alpha: float | None = None
    targets: str | tuple[str, ...] = "all-linear"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a rank below one."""
        require_rank(self, self.rank, self.dropout)

    def init(self, model: LanguageModel) -> Memory:
        """Nothing trained, and nothing merged."""
        return {"count": 0, "trained": {}, "merged": {}}

    def begin(self, memory: Memory, ctx: Context) -> Memory:
        """What is merged so far."""
        layers = adapters(ctx.model.module)
        merged = {name: layers[name].B.detach().clone() for name in memory["trained"]}
        return memory | {"count": memory["count"] + 1, "merged": merged}

    def params(self, memory: Memory, model: LanguageModel) -> LanguageModel:
        """Wrap the target layers and freeze everything else."""
        alpha = 2.0 * self.rank if self.alpha is None else self.alpha
        wrap(model.module, self.targets, self.rank, alpha, self.dropout)
        return model

    def start(self, memory: Memory, weights: Mapping[str, Tensor], ctx: Context) -> Mapping[str, Tensor]:
        """The last A, made orthogonal, and the B that was trained last."""
        started = dict(weights)
        for name, b in memory["trained"].items():
            started |= {f"{name}.A": orthogonal(weights[f"{name}.A"]), f"{name}.B": b}
        return started

    def end(self, memory: Memory, ctx: Context) -> Memory:
        """The B that was trained, for the next start."""
        trained = {name: layer.B.detach().clone() for name, layer in adapters(ctx.model.module).items()}
        return memory | {"trained": trained}

    def merge(
        self, memory: Memory, before: Mapping[str, Tensor], after: Mapping[str, Tensor], ctx: Context
    ) -> Mapping[str, Tensor]:
        """The new A, and the new B as one of t."""
        merged, rate = dict(after), 1 / math.sqrt(max(memory["count"], 1))
        for name, old in memory["merged"].items():
            new = after[f"{name}.B"]
            merged[f"{name}.B"] = torch.lerp(old.to(new), new, rate)
        return merged


@dataclass(frozen=True)
class RoutingCLoRA(Method):
    """Share one adapter, and learn for each experience a small change of how its factors meet (arXiv:2502.17920).

    y = W x + (alpha / rank) B (R_old + R) A x with (rank, rank) routing matrices (eq. 11). After an experience
    R_old <- R_old + R, and R starts again from zero, so that a new experience begins with the same function. R_old
    takes part in the value alone: A and B learn through R, at first not at all (eq. 12, theorem 3.1). The penalty is
    orthogonality * ||A_old^T R||_F^2 (eq. 26), with A as it was before the experience. Another paper of the name C-LoRA
    is `SelfRegularizedCLoRA`. Folds into the base exactly. Memory for each adapted layer: 8 rank^2 bytes, however many
    experiences.

    The equations are those that a formal proof of them quotes (Mettapedia, ContinualLowRankRouting), in which the basis
    of eq. 26 is named no further. Reconstruction, where the sources leave open: that this basis is A; that A and B
    learn in every experience, as in LoRA at first, when R is the identity; the penalty's scale, the mean over entries
    of R, so that a weight means the same on a model of another size.

    Args:
        rank: r.
        alpha: scales the update by alpha / rank; None takes 2 * rank.
        targets: leaf names of the layers to adapt, such as ("q_proj", "v_proj"); "all-linear" takes all but the head.
        dropout: probability of dropping each input of A while learning.
        orthogonality: lambda.
    """

    keeps: ClassVar[str] = "8 r^2 a layer, in all"
    computes: ClassVar[str] = "a product r^3 a layer, each step"
    reads_batch: ClassVar[bool] = False

    rank: int = 16
    alpha: float | None = None
    targets: str | tuple[str, ...] = "all-linear"
    dropout: float = 0.0
    orthogonality: float = 10.0

    def __post_init__(self) -> None:
        """Refuse numbers without a meaning."""
        require_rank(self, self.rank, self.dropout)
        if not 0 <= self.orthogonality < float("inf"):
            raise ConfigError(f"{self}: orthogonality is 0 or more, and finite.")

    def init(self, model: LanguageModel) -> Memory:
        """No old routing."""
        return {"old": {}, "gram": {}, "count": 0}

    def begin(self, memory: Memory, ctx: Context) -> Memory:
        """What was learned becomes old; of A its products with itself suffice, since ||A^T R||^2 = tr(R^T A A^T R)."""
        count = memory["count"] + 1
        if count == 1:
            return memory | {"count": count}
        layers = routings(ctx.model.module)
        with torch.no_grad():
            old = {name: layer.old + layer.R for name, layer in layers.items()}
            gram = {name: layer.A @ layer.A.T for name, layer in layers.items()}
        return {"old": old, "gram": gram, "count": count}

    def params(self, memory: Memory, model: LanguageModel) -> LanguageModel:
        """Wrap the target layers, with the old routing, and freeze everything else."""
        alpha = 2.0 * self.rank if self.alpha is None else self.alpha
        wrapped = wrap_with(RoutingLinear, model.module, self.targets, self.rank, alpha / self.rank, self.dropout)
        for name, layer in wrapped.items():
            layer.old.data.copy_(memory["old"].get(name, torch.zeros_like(layer.old)))
        return model

    def start(self, memory: Memory, weights: Mapping[str, Tensor], ctx: Context) -> Mapping[str, Tensor]:
        """No change of the old routing."""
        return dict(weights) | {f"{name}.R": torch.zeros_like(r) for name, r in memory["old"].items()}

    def loss(self, memory: Memory, batch: Batch, ctx: Context) -> Tensor | float:
        """The penalty; it does not depend on the batch."""
        if not memory["gram"]:
            return 0.0
        layers = routings(ctx.model.module)
        terms = [(r.R * (memory["gram"][name].to(r.R) @ r.R)).sum() for name, r in layers.items()]
        mean = torch.stack([term.to(terms[0].device) for term in terms]).sum() / (len(terms) * self.rank**2)
        return self.orthogonality * mean


def orthogonal(a: Tensor) -> Tensor:
    """(rank, in) rows that span what the rows of A span, and are orthonormal: Q^T of Q R = A^T, diagonal of R >= 0."""
    q, r = torch.linalg.qr(a.T)
    rows: Tensor = (q * torch.where(r.diagonal() < 0, -1.0, 1.0).to(q)).T
    return rows.contiguous()
