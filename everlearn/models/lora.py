"""Low-rank adapters on linear layers (arXiv:2106.09685), with a forward pass that half precision does not swallow.

In half precision, W x is rounded before s B A x is added to it, and what is smaller than half a unit in the last place
of W x is lost: a young adapter is scored as if it had learned half of what it has. Here both are one matrix product
over joined inputs, [x | s A x] [W | B]^T, accumulated in float32 and rounded once. With a float32 or float64 layer the
plain formula is exact enough.
"""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx
from torch.nn.functional import dropout, linear

from everlearn.errors import ModelError

HALF = (torch.bfloat16, torch.float16)
KINDS = (*HALF, torch.float32, torch.float64)

Join = Callable[[], Tensor]
"""Gives (out, in + rank), a layer's weight with room beside it."""


class LoRALinear(nn.Module):
    """A frozen linear layer and its adapter: y = W x + b + scale B A x.

    A is drawn uniformly as in the reference code (Kaiming with a = sqrt(5)) from torch's default generator, on the
    processor and in float32 whatever the layer's device and dtype; B is zero, so that the function does not change.
    Both are float32, or float64 for a float64 layer.

    Args:
        base: the layer to adapt, linear or GPT-2's transposed kind; it is frozen.
        rank: r, the inner width of the adapter.
        scale: factor of the adapter's output, alpha / rank.
        dropout: probability of dropping each input of A while learning.

    Raises:
        ModelError: if the layer's weight is quantised.
    """

    def __init__(self, base: nn.Module, rank: int, scale: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.base, self.rank, self.scale, self.dropout = base.requires_grad_(False), rank, scale, dropout
        if self.weight.dtype not in KINDS:
            raise ModelError(
                f"a linear layer's weights are {self.weight.dtype}, and adapters go on floating-point ones; load the "
                "model without quantisation."
            )
        kind = torch.float32 if self.weight.dtype in HALF else self.weight.dtype
        a = nn.init.kaiming_uniform_(torch.empty(rank, self.in_features), a=math.sqrt(5))
        self.A = nn.Parameter(a.to(self.weight.device, kind))
        self.B = nn.Parameter(torch.zeros(self.out_features, rank, dtype=kind, device=self.weight.device))
        self._joined: Tensor | None = None
        self._apart = False
        self._settled: Tensor | None = None

    @property
    def weight(self) -> Tensor:
        """(out, in) of the frozen layer alone; a view."""
        return matrix(self.base)

    @property
    def bias(self) -> Tensor | None:
        """(out,) of the frozen layer, or None."""
        bias = self.base.bias
        assert bias is None or isinstance(bias, Tensor)
        return bias

    @property
    def in_features(self) -> int:
        """Width of the input."""
        return self.weight.shape[1]

    @property
    def out_features(self) -> int:
        """Width of the output."""
        return self.weight.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        if self._settled is not None and self._joined is not None:
            return linear(torch.cat([x, linear(x, self._settled)], -1), self._joined, self.bias)
        kept = dropout(x, self.dropout, self.training)
        if self.weight.dtype not in HALF:
            return linear(x, self.weight, self.bias) + self.scale * linear(linear(kept, self.A), self.B)
        inner = linear(kept, (self.scale * self.A).to(x.dtype))
        return _Joined.apply(x, inner, self.B, self._join, self.bias)  # type: ignore[no-any-return, no-untyped-call]

    def delta(self) -> Tensor:
        """(out, in) what the adapter adds to the weight, in the adapter's precision."""
        return self.scale * (self.B @ self.A).detach()

    def prepare(self) -> None:
        """Make room for B beside W now, before the memory of a first pass is asked for on top."""
        if self.weight.dtype in HALF:
            self._join()

    def separate(self) -> None:
        """Give W a place of its own for good: one that is sharded is there during a pass alone, and copied in each."""
        self._apart, self._joined = True, None
        self.base.weight.data = self.weight.T.contiguous() if is_transposed(self.base) else self.weight.contiguous()

    def settle(self) -> None:
        """Write B beside W and keep the scaled A, as `forward` does in each pass, until `unsettle`.

        For half precision in evaluation alone: until then a change of A or B is not seen, and nothing has a gradient.
        """
        if self.weight.dtype in HALF:
            with torch.no_grad():
                self._join()[:, -self.rank :] = self.B
                self._settled = (self.scale * self.A).to(self.weight.dtype)

    def unsettle(self) -> None:
        """Follow A and B again."""
        self._settled = None

    def _join(self) -> Tensor:
        """(out, in + rank), whose first columns are W: it lives there, so that it is not copied in each pass."""
        if self._apart:
            return torch.cat([self.weight, self.weight.new_zeros(self.out_features, self.rank)], 1).detach()
        if self._joined is None or self._joined.data_ptr() != self.weight.data_ptr():
            with torch.inference_mode(False), torch.no_grad():  # else a first pass in inference could not be followed
                self._joined = torch.cat([self.weight, self.weight.new_zeros(self.out_features, self.rank)], 1)
                view = self._joined[:, : -self.rank]
                self.base.weight.data = view.T if is_transposed(self.base) else view
        return self._joined


class _Joined(torch.autograd.Function):
    """y = [x | inner] [W | B]^T + bias; no gradient for W and bias.

    B is written beside W anew in each pass, forward and backward, since in between it may have been another's turn.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, inner: Tensor, b: Tensor, join: Join, bias: Tensor | None) -> Tensor:
        joined = join()
        joined[:, x.shape[-1] :] = b
        ctx.save_for_backward(inner, b)
        ctx.join = join  # type: ignore[attr-defined]  # [W | B] saved would be refused once B is written again
        return linear(torch.cat([x, inner], -1), joined, bias)

    @staticmethod
    def backward(ctx: FunctionCtx, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        inner, b = ctx.saved_tensors  # type: ignore[attr-defined]
        joined, (grad,) = ctx.join(), upstream  # type: ignore[attr-defined]
        rank = inner.shape[-1]
        joined[:, -rank:] = b
        both = grad @ joined
        grad_b = grad.flatten(0, -2).T @ inner.flatten(0, -2)
        return both[..., :-rank], both[..., -rank:], grad_b.to(b.dtype), None, None


def wrap(module: nn.Module, targets: str | Sequence[str], rank: int, alpha: float, dropout: float = 0.0) -> None:
    """Give each target layer an adapter and freeze everything else; a layer that has one like it keeps it.

    Args:
        module: a model.
        targets: names of linear layers, or their ends, such as ("q_proj", "mlp.up_proj"); "all-linear" takes all but
            the output head.
        rank: of each adapter.
        alpha: the adapter's output is scaled by alpha / rank.
        dropout: see `LoRALinear`.

    Raises:
        ModelError: if a target names no linear layer, or names one with an adapter that is not alike.
    """
    module.requires_grad_(False)
    for name in chosen(module, targets):
        put(module, name, rank, alpha / rank, dropout)
    for adapter in adapters(module).values():
        adapter.A.requires_grad_(True)
        adapter.B.requires_grad_(True)
        adapter.prepare()


def put(module: nn.Module, name: str, rank: int, scale: float, dropout: float = 0.0) -> LoRALinear:
    """The adapter on one layer, made unless it is there.

    Raises:
        ModelError: if there is one that is not alike.
    """
    layer = module.get_submodule(name)
    if not isinstance(layer, LoRALinear):
        layer = LoRALinear(layer, rank, scale, dropout)
        _set(module, name, layer)
    there, asked = (layer.rank, layer.scale, layer.dropout), (rank, scale, dropout)
    if there != asked:
        raise ModelError(
            f"{name} has an adapter with rank, scale and dropout {there} and cannot get one with {asked} beside it; "
            "fold the first into its layer, or ask for the same."
        )
    return layer


def adapters(module: nn.Module) -> dict[str, LoRALinear]:
    """The adapted layers by name."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, LoRALinear)}


@contextmanager
def settled(module: nn.Module) -> Iterator[None]:
    """Inside, weights stand still, and what adapters prepare in each pass is prepared once; see `LoRALinear.settle`."""
    layers = adapters(module).values()
    try:
        for layer in layers:
            layer.settle()
        yield
    finally:
        for layer in layers:
            layer.unsettle()


def fold(module: nn.Module) -> None:
    """Add each adapter to its layer's weight and take it away; the function stays.

    The sum is made in the adapter's precision and rounded to the layer's once: in half precision that loses of a small
    adapter what is below half a unit in the last place. Float it first where that matters.
    """
    for name, adapter in adapters(module).items():
        _fold(module, name, adapter)


def take_away_unlearned(module: nn.Module, within: Collection[nn.Module]) -> None:
    """Take away the adapters inside some parts of a model that add nothing, since their B is still zero."""
    inside = {id(m) for part in within for m in part.modules()}
    for name, adapter in adapters(module).items():
        if id(adapter) in inside and not adapter.B.any():
            _fold(module, name, adapter)


def _fold(module: nn.Module, name: str, adapter: LoRALinear) -> None:
    total = (adapter.weight.to(adapter.A.dtype) + adapter.delta()).to(adapter.weight.dtype)
    if is_transposed(adapter.base):
        total = total.T.contiguous()
    adapter.base.weight = nn.Parameter(total, requires_grad=False)  # its own, should it have been tied
    _set(module, name, adapter.base)


def chosen(module: nn.Module, targets: str | Sequence[str]) -> list[str]:
    """Names of the linear layers, adapted ones included, that targets stand for; see `wrap`.

    Raises:
        ModelError: if a target stands for none.
    """
    linears = _linears(module)
    if targets == "all-linear":
        head = getattr(module, "get_output_embeddings", lambda: None)()
        found = [name for name, layer in linears.items() if layer is not head]
        if not found:
            raise ModelError(f"{type(module).__name__} has no linear layer that an adapter could go on.")
        return found
    wanted = [targets] if isinstance(targets, str) else list(targets)
    missing = [w for w in wanted if not any(_ends(name, w) for name in linears)]
    if missing or not wanted:
        leaves = sorted({name.rpartition(".")[2] for name in linears})
        raise ModelError(
            f"no linear layer is called {', '.join(missing) or 'nothing'}; "
            f"this model has {', '.join(leaves) or 'none'}."
        )
    return [name for name in linears if any(_ends(name, w) for w in wanted)]


def is_transposed(layer: nn.Module) -> bool:
    """Whether a layer is GPT-2's kind of linear layer, which keeps its weight as (in, out)."""
    return type(layer).__name__ == "Conv1D"


def matrix(layer: nn.Module) -> Tensor:
    """A linear layer's weight as (out, in); a view."""
    weight = layer.get_parameter("weight")
    return weight.T if is_transposed(layer) else weight


def _linears(module: nn.Module) -> dict[str, nn.Module]:
    found = {n: m for n, m in module.named_modules() if isinstance(m, nn.Linear | LoRALinear) or is_transposed(m)}
    inside = {f"{name}.base" for name in adapters(module)}
    return {name: layer for name, layer in found.items() if name not in inside}


def _ends(name: str, target: str) -> bool:
    return f".{name}".endswith(f".{target}")


def _set(module: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(parent), leaf, layer)
