"""A model of two weights, standing where a language model stands, so that a penalty can be worked out by hand."""

from dataclasses import dataclass

import torch
from torch import Tensor

from everlearn.examples import Batch
from everlearn.method import Context, Method
from everlearn.testing.toys import toy_model, toy_stream
from everlearn.types import Memory


@dataclass
class Plane:
    """Two weights."""

    weight: Tensor

    def trainable(self) -> dict[str, Tensor]:
        return {"w": self.weight}

    def move(self, *by: float) -> None:
        with torch.no_grad():
            self.weight += torch.tensor(by)


def plane(*values: float) -> Plane:
    return Plane(torch.tensor(values, dtype=torch.float64, requires_grad=True))


def at(model: Plane, seen: int = 0, step: int = 0) -> Context:
    return Context(model, toy_stream().experiences[seen], seen=seen, step=step)  # type: ignore[arg-type]


def some_batch() -> Batch:
    first = toy_stream().experiences[0]
    return next(Context(toy_model(), first).batches(first.train))


def penalty(method: Method, memory: Memory, model: Plane) -> tuple[float, list[float]]:
    """A method's term and its gradient."""
    term = method.loss(memory, some_batch(), at(model))
    assert isinstance(term, Tensor)
    (grad,) = torch.autograd.grad(term, [model.weight])
    return float(term.detach()), grad.tolist()


def descend(model: Plane, method: Method, memory: Memory, curvature: Tensor, centre: Tensor) -> None:
    """Minimise 1/2 sum h (w - c)^2 plus the method's penalty."""
    batch = some_batch()
    optimiser = torch.optim.LBFGS([model.weight], line_search_fn="strong_wolfe", tolerance_grad=1e-14, max_iter=200)

    def closure() -> Tensor:
        optimiser.zero_grad()
        own = (curvature * (model.weight - centre) ** 2).sum() / 2
        value = own + method.loss(memory, batch, at(model))
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(closure)  # type: ignore[arg-type]
