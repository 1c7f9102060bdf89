"""Second moments of what goes into layers: which directions of its input a layer has seen, and how strongly."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from everlearn.examples import Batch
from everlearn.models.language_model import LanguageModel


def input_moments(model: LanguageModel, names: Sequence[str], batches: Iterable[Batch]) -> dict[str, Tensor]:
    """The mean of x x^T over all tokens but padding, (in, in), at the input of each layer, without gradients.

    Layers that read the very same input, such as those of keys and values, get the same tensor.

    Args:
        model: it is left as it is.
        names: of layers; an adapted one counts as one layer.
        batches: what the model reads.
    """
    watch = _Watch()
    hooks = [model.module.get_submodule(name).register_forward_pre_hook(watch.at(name)) for name in names]
    try:
        with torch.no_grad():
            for batch in batches:
                mask = (batch.segments > 0).flatten().to(model.device)
                watch.last, watch.mask, watch.tokens = None, mask, watch.tokens + int(mask.sum())
                model.hidden(batch)
                watch.mask = None
    finally:
        for hook in hooks:
            hook.remove()
    means = {name: total / max(watch.tokens, 1) for name, total in watch.totals.items()}
    return {name: means[watch.leaders[name]] for name in names}


@dataclass
class _Watch:
    """What has been seen; `last` is the layer seen last, and its input.

    Without a mask nobody looks: asking for batches may make passes of its own, which probe the model.
    """

    totals: dict[str, Tensor] = field(default_factory=dict)
    leaders: dict[str, str] = field(default_factory=dict)
    tokens: int = 0
    mask: Tensor | None = None
    last: tuple[str, Tensor] | None = None

    def at(self, name: str) -> Callable[[nn.Module, Any], None]:
        """The hook of a layer."""

        def look(layer: nn.Module, given: Any) -> None:
            x: Tensor = given[0]
            if self.mask is None:
                return
            if self.last is not None and self.last[1] is x:
                self.leaders[name] = self.last[0]
                return
            rows = x.flatten(0, -2)[self.mask]
            rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
            self.totals[name] = rows.T @ rows + self.totals.get(name, 0.0)
            self.leaders[name], self.last = name, (name, x)

        return look
