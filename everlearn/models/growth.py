"""Deeper models whose old parameters keep their names.

A version names its weights by parameter, so a block that is put between others must not shift the names behind it. A
new block is a copy of an old one, under that one's name and COPY: where "layers.3" is copied, "layers.3_copy" runs at
its own place, and "layers.4" is "layers.4" still. What a model asks by place (its list of blocks, the number of them,
the index under which a block's keys and values are cached) is by the order in which blocks run.
"""

import copy
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from everlearn.errors import ModelError
from everlearn.models.adapted import adapted

COPY = "_copy"
"""What a new block's name ends with."""


class Blocks(nn.ModuleList):
    """Blocks under names of their own, in the order in which they run; an index is a place."""

    @classmethod
    def named(cls, blocks: Iterable[tuple[str, nn.Module]]) -> "Blocks":
        """The blocks, each under its name."""
        made = cls()
        for name, block in blocks:
            made.add_module(name, block)
        return made

    def __getitem__(self, place: Any) -> Any:
        """The block at a place, or a list of those in a slice."""
        found = list(self)[place]
        return Blocks.named((str(i), b) for i, b in enumerate(found)) if isinstance(place, slice) else found


def depth(module: nn.Module) -> int:
    """Number of blocks, copies not counted.

    Raises:
        ModelError: if the model has no list of blocks.
    """
    return sum(not name.endswith(COPY) for name, _ in _find(module)[1].named_children())


def has_grown(module: nn.Module) -> bool:
    """Whether `grow` has been at work."""
    return isinstance(_find(module)[1], Blocks)


def grow(module: nn.Module, order: Sequence[int]) -> list[nn.Module]:
    """Let a model's blocks run in an order in which some come twice; the second time it is a copy that runs.

    Nothing is done to a model that is as it would be made.

    Args:
        module: a causal language model of transformers.
        order: for each place of the deeper model the number of the old block; each of them at least once, at most
            twice, and for the first time in the old order.

    Returns:
        The new blocks.

    Raises:
        ModelError: if the model has adapters, has been grown otherwise, or has no list of blocks.
    """
    path, old = _find(module)
    names = [f"{block}{COPY if block in order[:place] else ''}" for place, block in enumerate(order)]
    if not has_grown(module):
        if adapted(module):
            raise ModelError("blocks with adapters are not copied; in a chain, put what grows a model before LoRA.")
        blocks = dict(old.named_children())
        blocks |= {name: _copied(blocks[name.removesuffix(COPY)]) for name in names if name.endswith(COPY)}
        _install(module, path, Blocks.named((name, blocks[name]) for name in names), order)
    there = dict(_find(module)[1].named_children())
    if list(there) != names:
        raise ModelError(
            f"the model has grown to blocks {', '.join(there)}, and is asked for {', '.join(names)}; a chain has room "
            "for one method that grows, and a version is read by the one that it was made with."
        )
    return [block for name, block in there.items() if name.endswith(COPY)]


def _find(module: Any) -> tuple[str, nn.ModuleList]:
    """The outermost list of as many modules as the model has blocks, and where it is."""
    count = _config(module).num_hidden_layers
    lists = [(n, m) for n, m in module.named_modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    if not lists:
        raise ModelError(f"{type(module).__name__} keeps its {count} blocks in no list; it cannot grow.")
    return min(lists, key=lambda pair: pair[0].count("."))


def _copied(block: nn.Module) -> nn.Module:
    """A copy with weights of its own; configurations, which say how all blocks attend, stay shared."""
    configs = [vars(m)["config"] for m in block.modules() if "config" in vars(m)]
    return copy.deepcopy(block, {id(config): config for config in configs})


def _install(module: nn.Module, path: str, blocks: Blocks, order: Sequence[int]) -> None:
    """Put blocks in the place of the model's own, and say everywhere how many they are."""
    parent, _, leaf = path.rpartition(".")
    for place, block in enumerate(blocks):
        for part in block.modules():
            if "layer_idx" in vars(part):
                vars(part)["layer_idx"] = place
    config = _config(module)
    old = config.num_hidden_layers
    for name, value in list(vars(config).items()):  # such as layer_types: an entry for each block
        if "layer" in name and isinstance(value, list) and len(value) == old:
            vars(config)[name] = [value[block] for block in order]
    config.num_hidden_layers = len(blocks)
    setattr(module.get_submodule(parent), leaf, blocks)


def _config(module: Any) -> Any:
    return module.config.get_text_config(decoder=True)
