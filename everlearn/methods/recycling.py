"""Recyclable tuning (Qin et al. 2023, arXiv:2305.08702): an adapter of an older base model helps to tune a newer one.

A base model was adapted to a task; the base is trained on, and the adapter fits it no more, or less well. The adapter
is where the new one begins (`InheritAdapter`), and what the old base said with it is what the new one is taught beside
the task's own answers (`OldAdapterKL`); `chain(LoRA(...), InheritAdapter(...), OldAdapterKL(...))` does both. See
`everlearn.rebase_folders`, which does it for an adapter on disk.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from everlearn.errors import ConfigError, ModelError
from everlearn.examples import Batch
from everlearn.method import Context, Method, Tensors
from everlearn.methods.quadratics import require_strength
from everlearn.models.language_model import LanguageModel
from everlearn.models.logprobs import divergence_from
from everlearn.models.lora import adapters
from everlearn.models.peft_format import load_peft, read_peft
from everlearn.models.recall import recalled
from everlearn.types import Memory


@dataclass(frozen=True)
class InheritAdapter(Method):
    """Begin the first experience with an adapter that was learned before, on another base (arXiv:2305.08702, init).

    In a chain behind a `LoRA` of the same layers, rank and scale.

    Memory: none; a version holds the adapter.

    Args:
        adapter: a folder in PEFT's format.
    """

    keeps: ClassVar[str] = "nothing"
    computes: ClassVar[str] = "nothing"

    adapter: str

    def start(self, memory: Memory, weights: Tensors, ctx: Context) -> Tensors:
        """The adapter's factors, before anything was learned.

        Raises:
            ModelError: if the model has no adapters like it.
        """
        if ctx.seen:
            return weights
        pairs, scale, _ = read_peft(Path(self.adapter))
        mine = adapters(ctx.model.module)
        inherited = {f"{layer}.{kind}": t for layer, pair in pairs.items() for kind, t in zip("AB", pair, strict=True)}
        shapes = {name: p.shape for name, p in ctx.trainable().items()}
        unlike = [name for name, t in inherited.items() if shapes.get(name) != t.shape]
        unlike += [layer for layer in mine if layer not in pairs or mine[layer].scale != scale]
        if unlike:
            raise ModelError(
                f"{self}: {unlike[0]} ({len(unlike)} in all) is not alike in the adapter and in {ctx.model.name}; "
                "chain it behind a LoRA of the adapter's layers, rank and scale."
            )
        return {**weights, **inherited}


@dataclass(frozen=True)
class OldAdapterKL(Method):
    """Say what an older base model says with its adapter (arXiv:2305.08702, distillation).

    Adds strength * T^2 * KL(softmax(z_old / T) || softmax(z / T)), the mean over the experience's own supervised
    tokens, exact over the vocabulary, to the task's own loss. The teacher is read when an experience begins: it has
    the model's architecture and vocabulary, and adapters like the model's own.

    Reconstruction: that the divergence is this way round, and T; the paper's code was not looked at.

    Memory: while an experience is learned all weights of the old base, 4 N bytes or 2 N in half precision, and none
    between experiences.

    Args:
        adapter: a folder in PEFT's format.
        base: what it was learned on: a hub name, a directory, or "embedded".
        strength: beta, nats charged for a nat of divergence.
        temperature: T; above 1 it gives more weight to what is improbable.
    """

    keeps: ClassVar[str] = "4 N while it learns, nothing between"
    computes: ClassVar[str] = "a forward pass of the old model, each batch"

    adapter: str
    base: str
    strength: float = 1.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Refuse numbers without a meaning."""
        require_strength(self, self.strength)
        if not 0 < self.temperature < float("inf"):
            raise ConfigError(f"{self}: temperature is more than 0, and finite.")

    def init(self, model: LanguageModel) -> Memory:
        """No teacher yet."""
        return {"weights": {}}

    def begin(self, memory: Memory, ctx: Context) -> Memory:
        """The teacher's weights."""
        return {"weights": teacher_weights(ctx.model, Path(self.adapter), self.base)}

    def loss(self, memory: Memory, batch: Batch, ctx: Context) -> Tensor | float:
        """The divergence on the batch."""
        with recalled(ctx.model, memory["weights"]):
            said = ctx.model.said(batch)
        distance = ctx.model.token_statistic(batch, divergence_from(said, self.temperature)).mean()
        return self.strength * self.temperature**2 * distance

    def end(self, memory: Memory, ctx: Context) -> Memory:
        """The teacher goes."""
        return {"weights": {}}


def teacher_weights(model: LanguageModel, adapter: Path, base: str) -> dict[str, Tensor]:
    """All weights of an older base with its adapter, by the names that they have in a model with one like it.

    Raises:
        ModelError: if base, adapters or vocabulary are not the model's kind.
    """
    old = LanguageModel.open(base, str(_kind(model)).removeprefix("torch."), str(model.device))
    scales = {layer: one.scale for layer, one in load_peft(old.module, adapter).items()}
    require_vocabulary(old, model)
    weights, mine = {n: p.detach() for n, p in old.parameters().items()}, model.parameters()
    here = {layer: one.scale for layer, one in adapters(model.module).items()}
    unlike = [n for n in {**mine, **weights} if _shape(mine, n) != _shape(weights, n)]
    unlike += [layer for layer in {**here, **scales} if here.get(layer) != scales.get(layer)]
    if unlike:
        raise ModelError(
            f"{unlike[0]} ({len(unlike)} in all) is not alike in {base} with {adapter} and in {model.name}; a teacher "
            "has the model's architecture, and adapters of the same layers, rank and scale."
        )
    return weights


def require_vocabulary(old: LanguageModel, new: LanguageModel) -> None:
    """Refuse models whose tokenizers number tokens otherwise.

    Raises:
        ModelError: naming a token.
    """
    theirs, mine = (m.tokenizer.get_vocab() for m in (old, new))
    if unlike := sorted(t for t in {**theirs, **mine} if theirs.get(t) != mine.get(t)):
        raise ModelError(
            f"{new.name} has another vocabulary than {old.name}: {unlike[0]!r} ({len(unlike)} in all) is numbered "
            "otherwise, so that what an adapter knows of tokens is about others. Learn the task anew on this base."
        )


def _kind(model: LanguageModel) -> object:
    return next(iter(model.parameters().values())).dtype


def _shape(weights: Mapping[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(weights[name].shape) if name in weights else None
