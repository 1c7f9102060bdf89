"""What linear layers read, seen while the model reads."""

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from everlearn.errors import ModelError
from everlearn.examples import Batch
from everlearn.models.language_model import LanguageModel
from everlearn.models.lora import chosen


def linear_layers(model: LanguageModel) -> dict[str, nn.Module]:
    """The linear layers by name: adapted ones, GPT-2's transposed kind and the output head included."""
    module: Any = model.module
    inner, head = set(chosen(module, "all-linear")), module.get_output_embeddings()
    return {name: layer for name, layer in module.named_modules() if name in inner or layer is head}


def layer_inputs(model: LanguageModel, names: Collection[str], batch: Batch, where: Tensor) -> dict[str, Tensor]:
    """The inputs of linear layers at some tokens, without gradient.

    Args:
        model: reads the batch once; nothing of it changes.
        names: of layers, see `linear_layers`.
        batch: what it reads.
        where: (B, T) bool, the tokens that are asked for.

    Returns:
        (n, in) for each name, in row-major order of the tokens.

    Raises:
        ModelError: if a layer does not read every token, as an expert among others does not.
    """
    found: dict[str, Tensor] = {}
    head: Any = model.module.get_output_embeddings()  # type: ignore[operator]
    layers = {name: layer for name, layer in linear_layers(model).items() if name in names}
    where = where.to(model.device)
    with torch.no_grad(), model.whole(layers.values()), model.padded(), ExitStack() as stack:
        for name, layer in layers.items():
            stack.enter_context(_watched(name, layer, where, found))
        states = model.hidden(batch)
    found |= {name: states[where] for name, layer in layers.items() if layer is head}
    if missing := sorted(set(names) - found.keys()):
        raise ModelError(
            f"{model.name}: {', '.join(missing[:3])} read nothing of a batch, so what they read is unknown."
        )
    return found


@contextmanager
def _watched(name: str, layer: nn.Module, where: Tensor, found: dict[str, Tensor]) -> Iterator[None]:
    def keep(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        if given[0].shape[:-1] != where.shape:
            raise ModelError(
                f"{name} reads {tuple(given[0].shape[:-1])} tokens of a batch of {tuple(where.shape)}; "
                "a method that needs the inputs of each layer cannot follow a mixture of experts."
            )
        found[name] = given[0][where]

    handle = layer.register_forward_pre_hook(keep)
    try:
        yield
    finally:
        handle.remove()
