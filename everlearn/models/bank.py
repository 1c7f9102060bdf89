"""A bank: several adapters on one linear layer, added up, of which the earlier ones are frozen.

The parameters of adapter i of a layer are called `<layer>.A.i`, `<layer>.B.i` and, where its output has a learned
factor, `<layer>.gain.i`, and keep their names as the bank grows, so that a version of any length is rebuilt by name.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from everlearn.errors import ModelError
from everlearn.models.adapted import Adapted, Pairs
from everlearn.models.lora import chosen, fresh_pair, replace

Gate = Callable[[Tensor], Tensor]
"""From (..., in) to (..., adapters): the weight of each adapter's output, by its number in the bank."""


@dataclass(frozen=True)
class Shape:
    """What one adapter of a bank is.

    Args:
        rank: r.
        scale: fixed factor of its output.
        gain: a learned factor beside it, with this value at first; None has none.
    """

    rank: int
    scale: float = 1.0
    gain: float | None = None


class Bank(Adapted):
    """A frozen linear layer and the sum of its adapters: y = W x + b + sum_i gain_i scale_i B_i A_i x.

    Each is drawn as the adapter of a `LoRALinear`. All frozen adapters together are one pair of matrices, put together
    once, and all that learn are another one, so that a forward pass costs the sum of ranks and no loop.

    `gate`, where a method sets it, weighs the adapters by the input; such a bank folds into no linear layer. Where it
    is a module, its parameters are called `<layer>.gate...`.

    Args:
        base: the layer to adapt, linear or GPT-2's transposed kind; it is frozen.
        dropout: probability of dropping each input of the adapters that learn, while learning.

    Raises:
        ModelError: if the layer's weight is quantised.
    """

    def __init__(self, base: nn.Module, dropout: float = 0.0) -> None:
        super().__init__(base, dropout)
        self.shapes: list[Shape] = []
        self.A, self.B, self.gain = nn.ParameterList(), nn.ParameterList(), nn.ParameterDict()
        self.gate: Gate | None = None
        self._frozen: tuple[object, Tensor, Tensor] | None = None

    def add(self, shape: Shape) -> None:
        """One more adapter, which changes nothing as long as its B is zero."""
        a, b = fresh_pair(self, shape.rank)
        self.A.append(a)
        self.B.append(b)
        if shape.gain is not None:
            gain = torch.tensor(shape.gain, dtype=self.kind, device=self.weight.device)
            self.gain[str(len(self.shapes))] = nn.Parameter(gain)
        self.shapes.append(shape)

    def cut(self, count: int) -> None:
        """Keep the first `count` adapters alone."""
        self.A, self.B = nn.ParameterList(list(self.A)[:count]), nn.ParameterList(list(self.B)[:count])
        self.gain = nn.ParameterDict({n: g for n, g in self.gain.items() if int(n) < count})
        self.shapes = self.shapes[:count]

    def pairs(self) -> Pairs:
        """The frozen adapters as one pair, then those that learn as another."""
        groups = []
        if frozen := self._members(learn=False):
            a, b = self.frozen()
            groups.append((self._factors(frozen) * a, b))
        if learning := self._members(learn=True):
            a, b = _cat([self.A[i] for i in learning], 0), _cat([self.B[i] for i in learning], 1)
            groups.append((self._factors(learning) * a, b))
        return [a for a, _ in groups], [b for _, b in groups]

    def settings(self) -> str:
        """The shapes, with their scales, and the gate."""
        return f"{self.shapes} {self.gate}"

    def frozen(self) -> tuple[Tensor, Tensor]:
        """The A (ranks, in) and B (out, ranks) of all frozen adapters, unscaled, in the bank's order."""
        members = self._members(learn=False)
        a, b = [self.A[i] for i in members], [self.B[i] for i in members]
        key = [(p.data_ptr(), p._version, p.dtype) for p in (*a, *b)]
        if self._frozen is None or self._frozen[0] != key:
            with torch.inference_mode(False), torch.no_grad():
                none = [self.A[0][:0], self.B[0][:, :0]] if not members else []
                self._frozen = (key, torch.cat(a or none[:1]), torch.cat(b or none[1:], 1))
        return self._frozen[1:]

    def weigh(self, inner: Tensor, x: Tensor) -> Tensor:
        """What the gate makes of the inner values."""
        if self.gate is None:
            return inner
        order = self._members(learn=False) + self._members(learn=True)
        ranks = torch.tensor([self.shapes[i].rank for i in order], device=x.device)
        weights = self.gate(x)[..., order].to(inner.dtype)
        return inner * weights.repeat_interleave(ranks, -1, output_size=inner.shape[-1])

    def delta(self) -> Tensor:
        """(out, in) what the adapters add to the weight, in their precision.

        Raises:
            ModelError: if a gate weighs them by the input.
        """
        if self.gate is not None:
            raise ModelError(
                f"a {type(self).__name__} whose gate weighs its adapters by the input adds no fixed matrix to the "
                "layer's weight; keep the adapters, or take the gate away."
            )
        return super().delta()

    def _members(self, learn: bool) -> list[int]:
        learns = [a.requires_grad or b.requires_grad for a, b in zip(self.A, self.B, strict=True)]
        return [i for i, known in enumerate(learns) if known is learn]

    def _factors(self, members: Sequence[int]) -> Tensor:
        """(ranks, 1) what the rows of A are multiplied by."""
        shapes = [self.shapes[i] for i in members]
        fixed = [s.scale for s in shapes for _ in range(s.rank)]
        factors = torch.tensor(fixed, dtype=self.kind, device=self.weight.device)
        if self.gain:
            one = factors.new_ones(())
            gains = [self.gain.get(str(i), one) for i in members]
            ranks = torch.tensor([s.rank for s in shapes], device=factors.device)
            factors = factors * torch.stack(gains).repeat_interleave(ranks)
        return factors[:, None]


def grow(
    module: nn.Module, targets: str | Sequence[str], shapes: Sequence[Shape], dropout: float = 0.0
) -> dict[str, Bank]:
    """Make each target layer a bank of exactly these adapters; the last one learns, the rest of the model is frozen.

    Adapters that are there stay as they are, missing ones are added, and ones beyond are taken away: after work that
    was given up, the same call starts again from the same state. Gains learn in all adapters that have them.

    Args:
        module: a model.
        targets: see `everlearn.models.lora.wrap`.
        shapes: of all adapters, in the order they were learned; the same for each layer.
        dropout: see `Bank`.

    Returns:
        The banks by the layer's name.

    Raises:
        ModelError: if a target names no linear layer, or one with another kind of adapter or adapters not alike.
    """
    module.requires_grad_(False)
    found = {name: _bank(module, name, dropout) for name in chosen(module, targets)}
    for name, bank in found.items():
        if bank.shapes[: len(shapes)] != list(shapes)[: len(bank.shapes)] or bank.dropout != dropout:
            raise ModelError(
                f"{name} has adapters {bank.shapes} with dropout {bank.dropout}, and cannot have {list(shapes)} with "
                f"{dropout}; fold the first, or ask for the same."
            )
        if len(bank.shapes) > len(shapes):
            bank.cut(len(shapes))
        for shape in shapes[len(bank.shapes) :]:
            bank.add(shape)
        bank.A.requires_grad_(False)
        bank.B.requires_grad_(False)
        bank.gain.requires_grad_(True)
        for last in (*bank.A[-1:], *bank.B[-1:]):
            last.requires_grad_(True)
        bank.prepare()
    return found


def banks(module: nn.Module) -> dict[str, Bank]:
    """The banks by the layer's name."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, Bank)}


def _bank(module: nn.Module, name: str, dropout: float) -> Bank:
    layer = module.get_submodule(name)
    if not isinstance(layer, Adapted):
        layer = Bank(layer, dropout)
        replace(module, name, layer)
    if not isinstance(layer, Bank):
        raise ModelError(f"{name} is a {type(layer).__name__}; fold it before it gets a bank of adapters.")
    return layer


def _cat(tensors: Sequence[Tensor], dim: int) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors), dim)


class Listened(Protocol):
    """What weighs adapters inside a layer, and can be listened to."""

    listened: bool
    heard: list[Tensor]


@contextmanager
def listening(gates: Sequence[Listened]) -> Iterator[None]:
    """Inside, gates keep what they say."""
    for gate in gates:
        gate.listened = True
    try:
        yield
    finally:
        for gate in gates:
            gate.listened, gate.heard = False, []
