"""A model of a few numbers, standing where a language model stands, and what a merging method makes of it."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from everlearn.method import Context, Method
from everlearn.testing.toys import toy_stream


class Numbers:
    """One tensor that learns."""

    def __init__(self, weight: Tensor) -> None:
        self.module, self.weight = nn.Module(), weight

    def trainable(self) -> dict[str, Tensor]:
        return {"w": self.weight}


def numbers(model: Numbers) -> dict[str, Tensor]:
    return {"w": model.weight.detach().clone()}


def after_all(method: Method, base: tuple[float, ...], *trained: tuple[float, ...]) -> list[float]:
    """The merged weight after experiences that ended at these, each merged with the version before it."""
    model = Numbers(torch.tensor(base, dtype=torch.float64))
    ctx, memory, merged = Context(model, toy_stream().experiences[0]), None, numbers(model)  # type: ignore[arg-type]
    for seen, weight in enumerate(trained):
        memory = method.begin(memory, replace(ctx, seen=seen))
        after = {"w": torch.tensor(weight, dtype=torch.float64)}
        here = replace(ctx, seen=seen, before=merged, after=after)
        memory = method.end(memory, here)
        merged = dict(method.merge(memory, merged, after, here))
    found: list[float] = merged["w"].tolist()
    return found
