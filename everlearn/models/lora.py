"""Low-rank adapters on linear layers (arXiv:2106.09685): put on, found, folded."""

import math
from abc import ABC
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar, TypeVar

import torch
from torch import nn

from everlearn.errors import ModelError
from everlearn.models.adapted import Adapted, Pairs, adapted, is_transposed


class Paired(Adapted, ABC):
    """A frozen linear layer and one pair of factors, A and B, with what else a kind of adapter learns.

    A is drawn uniformly as in the reference code (Kaiming with a = sqrt(5)) from torch's default generator, on the
    processor and in float32 whatever the layer's device and dtype; B is zero, so that the function does not change.
    Both are float32, or float64 for a float64 layer.

    Args:
        base: the layer to adapt, linear or GPT-2's transposed kind; it is frozen.
        rank: r, the inner width of the adapter.
        scale: s, factor of the adapter's output, alpha / rank.
        dropout: probability of dropping each input of A while learning.

    Raises:
        ModelError: if the layer's weight is quantised.
    """

    learns: ClassVar[tuple[str, ...]] = ("A", "B")

    def __init__(self, base: nn.Module, rank: int, scale: float, dropout: float = 0.0) -> None:
        super().__init__(base, dropout)
        self.rank, self.scale = rank, scale
        self.A, self.B = fresh_pair(self, rank)

    def pairs(self) -> Pairs:
        """The one pair."""
        return (self.scale * self.A,), (self.B,)

    def settings(self) -> str:
        """The kind and the scale."""
        return f"{type(self).__name__} {self.scale}"


class LoRALinear(Paired):
    """A frozen linear layer and its adapter: y = W x + b + s B A x; see `Paired`."""


Kind = TypeVar("Kind", bound=Paired)


def fresh_pair(layer: Adapted, rank: int) -> tuple[nn.Parameter, nn.Parameter]:
    """A (rank, in), drawn, and B (out, rank), zero, for a layer; see `Paired`."""
    a = nn.init.kaiming_uniform_(torch.empty(rank, layer.in_features), a=math.sqrt(5))
    b = torch.zeros(layer.out_features, rank, dtype=layer.kind, device=layer.weight.device)
    return nn.Parameter(a.to(layer.weight.device, layer.kind)), nn.Parameter(b)


def wrap(module: nn.Module, targets: str | Sequence[str], rank: int, alpha: float, dropout: float = 0.0) -> None:
    """`wrap_with` the plain kind of adapter, whose output is scaled by alpha / rank."""
    wrap_with(LoRALinear, module, targets, rank, alpha / rank, dropout)


def wrap_with(
    kind: type[Kind], module: nn.Module, targets: str | Sequence[str], rank: int, scale: float, dropout: float = 0.0
) -> dict[str, Kind]:
    """Give each target layer an adapter and freeze everything else; a layer that has one like it keeps it.

    Args:
        kind: of adapter.
        module: a model.
        targets: names of linear layers, or their ends, such as ("q_proj", "mlp.up_proj"); "all-linear" takes all but
            the output head.
        rank: of each adapter.
        scale: of each adapter's output.
        dropout: see `Paired`.

    Returns:
        The model's adapters of that kind, by name.

    Raises:
        ModelError: if a target names no linear layer, or names one with an adapter that is not alike.
    """
    module.requires_grad_(False)
    for name in chosen(module, targets):
        _put(kind, module, name, (rank, scale, dropout))
    found = {name: layer for name, layer in module.named_modules() if isinstance(layer, kind)}
    for layer in found.values():
        for learned in kind.learns:
            layer.get_parameter(learned).requires_grad_(True)
        layer.prepare()
    return found


def put(module: nn.Module, name: str, rank: int, scale: float, dropout: float = 0.0) -> LoRALinear:
    """The plain adapter on one layer, made unless it is there.

    Raises:
        ModelError: if there is one that is not alike.
    """
    return _put(LoRALinear, module, name, (rank, scale, dropout))


def _put(kind: type[Kind], module: nn.Module, name: str, asked: tuple[int, float, float]) -> Kind:
    layer = module.get_submodule(name)
    if not isinstance(layer, Adapted):
        layer = kind(layer, *asked)
        replace(module, name, layer)
    if not isinstance(layer, kind):
        raise ModelError(f"{name} is a {type(layer).__name__}; fold it before it gets another kind of adapter.")
    there = (layer.rank, layer.scale, layer.dropout)
    if there != asked:
        raise ModelError(
            f"{name} has an adapter with rank, scale and dropout {there} and cannot get one with {asked} beside it; "
            "fold the first into its layer, or ask for the same."
        )
    return layer


def adapters(module: nn.Module) -> dict[str, LoRALinear]:
    """The layers with one adapter each, by name; `everlearn.models.adapted` finds those of any kind."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, LoRALinear)}


@contextmanager
def settled(module: nn.Module) -> Iterator[None]:
    """Inside, weights stand still, and what adapters prepare in each pass is prepared once; see `LoRALinear.settle`."""
    layers = adapted(module).values()
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
    for name, layer in adapted(module).items():
        total = layer.folded().to(layer.weight.dtype)
        if is_transposed(layer.base):
            total = total.T.contiguous()
        layer.base.weight = nn.Parameter(total, requires_grad=False)  # its own, should it have been tied
        replace(module, name, layer.base)


def take_away_unlearned(module: nn.Module, within: Collection[nn.Module]) -> None:
    """Take away the adapters inside some parts of a model that add nothing, since all their B are still zero."""
    inside = {id(m) for part in within for m in part.modules()}
    for name, layer in adapted(module).items():
        if id(layer) in inside and not any(up.any() for up in layer.pairs()[1]):
            layer.separate()
            replace(module, name, layer.base)


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


def _linears(module: nn.Module) -> dict[str, nn.Module]:
    found = {n: m for n, m in module.named_modules() if isinstance(m, nn.Linear | Adapted) or is_transposed(m)}
    inside = {f"{name}.base" for name in adapted(module)}
    return {name: layer for name, layer in found.items() if name not in inside}


def _ends(name: str, target: str) -> bool:
    return f".{name}".endswith(f".{target}")


def replace(module: nn.Module, name: str, layer: nn.Module) -> None:
    """Put a layer where another one of this name is, in the mode of that one: a restored version drops nothing."""
    layer.train(module.get_submodule(name).training)
    parent, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(parent), leaf, layer)
