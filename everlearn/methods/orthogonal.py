"""New adapters that keep off the old ones: by penalties on the directions or on the entries of their updates."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from everlearn.errors import ConfigError
from everlearn.examples import Batch
from everlearn.method import Context, Method
from everlearn.methods.growing import Growing
from everlearn.models.bank import Bank, banks
from everlearn.models.products import product_l1, product_overlap, product_square
from everlearn.types import Memory

Formula = Literal["paper", "repo"]


@dataclass(frozen=True)
class OLoRA(Growing, Method):
    """Keep a new adapter's A orthogonal to those of all old ones (O-LoRA, arXiv:2310.14152).

    One adapter for each experience, the old ones frozen, all added up without any task identity. The penalty is
    orthogonality * sum over layers and i < t of ||A_i A_t^T||_F^2. The official code sums absolute values in place of
    squares and adds decay times the Euclidean norm of each new matrix: `formula="repo"`. Folds into the base exactly.
    A version grows by 4 rank (in + out) bytes for each experience and adapted layer. All linear layers but the head by
    default; the paper adapts queries and values, with rank 8.

    Args:
        rank: of each adapter.
        alpha: scales each update by alpha / rank; None takes 2 * rank.
        targets: leaf names of the layers to adapt, such as ("q_proj", "v_proj"); "all-linear" takes all but the head.
        dropout: probability of dropping each input of the adapter that learns.
        orthogonality: lambda_1; at 0 this is `IncLoRA`.
        decay: lambda_2 of the official code; the paper has none.
        formula: see above.
    """

    keeps: ClassVar[str] = "a count; a version gains an adapter"
    computes: ClassVar[str] = "all adapters, each pass; products of A, each step"
    reads_batch: ClassVar[bool] = False
    orthogonality: float = 0.5
    decay: float = 0.0
    formula: Formula = "paper"

    def __post_init__(self) -> None:
        """Refuse numbers without a meaning."""
        Growing.__post_init__(self)
        _require_weight(self, self.orthogonality)
        if self.decay and self.formula == "paper":
            raise ConfigError(f"{self}: decay is a term of the official code alone; set formula to 'repo'.")

    def loss(self, memory: Memory, batch: Batch, ctx: Context) -> Tensor | float:
        """The penalty; it does not depend on the batch."""
        terms = []
        for bank in banks(ctx.model.module).values():
            product = bank.frozen()[0] @ bank.A[-1].T
            if self.formula == "paper":
                terms.append(self.orthogonality * product.square().sum())
            else:
                terms.append(self.orthogonality * product.abs().sum())
                terms += [self.decay * m.norm() for m in (bank.A[-1], bank.B[-1])] if self.decay else []
        return _total(terms)


@dataclass(frozen=True)
class NLoRA(Growing, Method):
    """Keep each new update sparse, so that few of its entries meet those of old ones (N-LoRA, arXiv:2410.10179).

    One adapter for each experience, the old ones frozen, all added up without any task identity. The penalty is
    sparsity * ||s B_t A_t||_1, over the entries of the whole (out, in) update, which is made by blocks of rows and
    never kept. The official code takes the norm of the (rank, rank) matrix A_t B_t instead, summed over the layers
    whose input is as wide as their output: `formula="repo"`. Folds into the base exactly. A version grows by
    4 rank (in + out) bytes for each experience and adapted layer.

    Differs from the paper: the mean over entries stands in place of the sum, so that a weight means the same on a model
    of another size; `scaled=False` is the sum.

    Args:
        rank: of each adapter.
        alpha: scales each update by s = alpha / rank; None takes 2 * rank.
        targets: leaf names of the layers to adapt, such as ("q_proj", "v_proj"); "all-linear" takes all but the head.
        dropout: probability of dropping each input of the adapter that learns.
        sparsity: lambda; nats per token charged for a mean entry of 1. The official code's, for its sum, is 0.4.
        formula: see above.
        scaled: see above.
    """

    keeps: ClassVar[str] = "a count; a version gains an adapter"
    computes: ClassVar[str] = "all adapters, each pass; B A by rows, each step"
    reads_batch: ClassVar[bool] = False
    sparsity: float = 100.0
    formula: Formula = "paper"
    scaled: bool = True

    def __post_init__(self) -> None:
        """Refuse numbers without a meaning."""
        Growing.__post_init__(self)
        _require_weight(self, self.sparsity)

    def loss(self, memory: Memory, batch: Batch, ctx: Context) -> Tensor | float:
        """The penalty; it does not depend on the batch."""
        layers = list(banks(ctx.model.module).values())
        if self.formula == "paper":
            terms = [product_l1(bank.B[-1], bank.shapes[-1].scale * bank.A[-1]) for bank in layers]
            return self.sparsity * _total(terms) / (_entries(layers) if self.scaled else 1)
        square = [bank for bank in layers if bank.in_features == bank.out_features]
        terms = [(bank.A[-1] @ bank.B[-1]).abs().sum() for bank in square]
        return self.sparsity * _total(terms) / (self.rank**2 * max(len(square), 1) if self.scaled else 1)


@dataclass(frozen=True)
class SelfRegularizedCLoRA(Growing, Method):
    """Keep a new update off the entries that old ones have changed (C-LoRA, arXiv:2304.06027).

    One adapter for each experience, the old ones frozen, all added up. With O = sum_{i<t} s B_i A_i and D = s B_t A_t
    the penalty is overlap * mean over entries of (O^2 / mean O^2) D^2, made by blocks of rows and never kept: a mean
    square of D, weighed by how much the old updates have changed each entry. Another paper of the same name is
    `RoutingCLoRA`. Folds into the base exactly. A version grows by 4 rank (in + out) bytes for each experience and
    adapted layer.

    Differs from the paper: it customises images by diffusion, on keys and values of cross-attention, and its random
    tokens for concepts have no place here. Its penalty is lambda * ||O . D||_2^2 with lambda = 1e8, of the fourth
    power of a weight: `scaled=False` is that formula. Here O^2 is scaled to mean 1, as a Fisher is in `EWC`, and the
    mean over entries stands in place of the sum, so that a weight means the same on a model of another size and at
    another rate.

    Args:
        rank: of each adapter.
        alpha: scales each update by s = alpha / rank; None takes 2 * rank.
        targets: leaf names of the layers to adapt, such as ("q_proj", "v_proj"); "all-linear" takes all but the head.
        dropout: probability of dropping each input of the adapter that learns.
        overlap: nats per token charged for a weighted mean square of the new update of 1; at 0 this is `IncLoRA`. The
            paper's, for its sum, is 1e8.
        scaled: see above.
    """

    keeps: ClassVar[str] = "a count; a version gains an adapter"
    computes: ClassVar[str] = "all adapters, each pass; B A by rows, each step"
    reads_batch: ClassVar[bool] = False
    overlap: float = 1e4
    scaled: bool = True

    def __post_init__(self) -> None:
        """Refuse numbers without a meaning."""
        Growing.__post_init__(self)
        _require_weight(self, self.overlap)

    def loss(self, memory: Memory, batch: Batch, ctx: Context) -> Tensor | float:
        """The penalty; it does not depend on the batch."""
        layers = list(banks(ctx.model.module).values())
        scale, terms, squares = self.shape().scale, list[Tensor](), list[Tensor]()
        for bank in layers:
            old_a, old_b = bank.frozen()
            terms.append(product_overlap(bank.B[-1], scale * bank.A[-1], old_b, scale * old_a))
            squares.append(product_square(old_b, scale * old_a))
        if not self.scaled:
            return self.overlap * _total(terms)
        old = _total(squares)  # of as many entries as the terms: the means' sizes cancel
        return self.overlap * _total(terms) / torch.where(old > 0, old, 1.0)


def _entries(layers: Sequence[Bank]) -> int:
    return sum(bank.in_features * bank.out_features for bank in layers)


def _total(terms: Sequence[Tensor]) -> Tensor:
    return torch.stack([term.to(terms[0].device) for term in terms]).sum() if terms else torch.zeros(())


def _require_weight(method: Method, weight: float) -> None:
    if not 0 <= weight < float("inf"):
        raise ConfigError(f"{method}: the weight of the penalty is 0 or more, and finite.")
