"""Growth: a deeper model, whose new blocks learn what is new."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from everlearn.errors import ConfigError, ModelError
from everlearn.examples import Batch
from everlearn.method import Method
from everlearn.models.growth import depth, grow, has_grown
from everlearn.models.language_model import LanguageModel
from everlearn.types import Memory


@dataclass(frozen=True)
class BlockExpansion(Method):
    """Train new blocks between the old ones, which are frozen (block expansion, LLaMA Pro, arXiv:2401.02415).

    Behind every so-many-th block runs a copy of it whose writing layers are zero: it adds nothing to what passes
    through, so that the model's function is the same until the copy learns. All else is frozen. The new blocks are made
    once and trained on through all experiences. In a chain it stands before LoRA, which then adapts all blocks, new
    ones too, and freezes their own weights.

    Memory: none; a version holds the new blocks. Compute: theirs.

    Args:
        every: old blocks to each new one; the paper has 4.
        outputs: names of what writes into the residual stream, at any depth inside a block: its weights are zeroed.
    """

    keeps: ClassVar[str] = "nothing"
    computes: ClassVar[str] = "passes of the new blocks"

    shardings: ClassVar = frozenset({"replicated", "sharded"})  # acts before parameters are sharded

    every: int = 4
    outputs: tuple[str, ...] = ("o_proj", "down_proj")

    def __post_init__(self) -> None:
        """Refuse a distance that is none."""
        if self.every < 1 or not self.outputs:
            raise ConfigError(f"{self}: every is 1 or more, and outputs are named.")

    def params(self, memory: Memory, model: LanguageModel) -> LanguageModel:
        """Put the new blocks in, unless they are there, and freeze everything else."""
        count = depth(model.module)
        if self.every > count:
            raise ModelError(f"{self}: {model.name} has {count} blocks, and no new one would be made; lower `every`.")
        order = [b for b in range(count) for _ in range(1 + (b % self.every == self.every - 1))]
        new = grow(model.module, order) if has_grown(model.module) else self._grown(model, order)
        model.module.requires_grad_(False)
        for block in new:
            block.requires_grad_(True)
        return model

    def _grown(self, model: LanguageModel, order: Sequence[int]) -> list[nn.Module]:
        """New blocks that add nothing yet.

        Raises:
            ModelError: if what the model computes has changed.
        """
        before = _states(model)
        new = grow(model.module, order)
        for block in new:
            _silence(block, self.outputs, model.name)
        after = _states(model)
        if not bool((before - after).norm() <= 1e-5 * before.norm()):
            raise ModelError(
                f"{self}: new blocks change what {model.name} computes, since they write with more than "
                f"{', '.join(self.outputs)}; name all of their outputs."
            )
        return new


@dataclass(frozen=True)
class DepthSplice(Method):
    """Run the blocks twice over, without some at the seam, and train on (depth up-scaling, SOLAR, arXiv:2312.15166).

    Of n blocks, the first n - m are followed by the last n - m: 2 (n - m) in all. The spliced model is another function
    and a worse model until it has learned; it is for continued pre-training on much text, and no protection of what a
    small experience would forget. Every parameter learns that did.

    Memory: none; a version holds whatever learns. Compute: that of a model 2 (1 - dropped) times as deep.

    Args:
        dropped: m / n, the share of the blocks that each of both runs loses at the seam; the paper has 8 of 32.
    """

    keeps: ClassVar[str] = "nothing"
    computes: ClassVar[str] = "passes of the new blocks"
    shardings: ClassVar = frozenset({"replicated", "sharded"})  # acts before parameters are sharded

    dropped: float = 0.25

    def __post_init__(self) -> None:
        """Refuse a seam after which nothing would run twice."""
        if not 0 <= self.dropped < 0.5:
            raise ConfigError(f"{self}: dropped is in [0, 0.5).")

    def params(self, memory: Memory, model: LanguageModel) -> LanguageModel:
        """Splice the blocks, unless it is done."""
        count = depth(model.module)
        lost = round(self.dropped * count)
        if 2 * lost >= count:
            raise ModelError(f"{self}: of {model.name}'s {count} blocks none would run twice; lower `dropped`.")
        grow(model.module, [*range(count - lost), *range(lost, count)])
        return model


def _silence(block: nn.Module, outputs: tuple[str, ...], name: str) -> None:
    """Zero what a block writes with.

    Raises:
        ModelError: if the block has no part of one of the names.
    """
    for output in outputs:
        found = [p for path, p in block.named_parameters() if output in path.split(".")]
        if not found:
            parts = sorted({part for path, _ in block.named_parameters() for part in path.split(".")[:-1]})
            raise ModelError(
                f"{name}: no part of a block is called {output}; its outputs are among {', '.join(parts)}."
            )
        with torch.no_grad():
            for parameter in found:
                parameter.zero_()


def _states(model: LanguageModel) -> Tensor:
    """Last hidden states for some tokens."""
    tokens = torch.arange(8)[None]
    ones = torch.ones_like(tokens)
    with torch.no_grad():
        return model.hidden(Batch(tokens, tokens, ones, ones.bool())).double()
