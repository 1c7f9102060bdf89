"""Every method of ours obeys every law, and the laws notice methods that do not."""

import inspect
import pkgutil
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch import Tensor

import everlearn.methods
from everlearn.examples import Batch
from everlearn.method import Context, Method, members
from everlearn.models.language_model import LanguageModel
from everlearn.testing.laws import LAWS, Law, LawBroken, check
from everlearn.types import Memory

FAMILIES = sorted(file.stem for file in Path(__file__).parent.glob("lawful_*.py"))
METHODS: list[Method] = [m for f in FAMILIES for m in import_module(f"tests.testing.{f}").METHODS]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("method", METHODS, ids=lambda method: re.sub(r"'/[^']*/", "'", str(method)))
def test_every_method_obeys(method: Method, law: Law) -> None:
    check(method, [law])


def test_no_method_was_forgotten_here() -> None:
    modules = [import_module(f"everlearn.methods.{m.name}") for m in pkgutil.iter_modules(everlearn.methods.__path__)]
    there = {
        c
        for module in modules
        for _, c in inspect.getmembers(module, inspect.isclass)
        if issubclass(c, Method) and c.__module__ == module.__name__
    }
    assert there == {
        type(m) for whole in METHODS for m in members(whole)
    }  # beside this file, lawful_FAMILY.py lists a family's


@dataclass(frozen=True)
class Dice(Method):
    """Draws where it must not."""

    def update(self, memory: Memory, update: Mapping[str, Tensor], ctx: Context) -> Mapping[str, Tensor]:
        return {n: u * torch.rand((), generator=DICE) for n, u in update.items()}


DICE = torch.Generator()


@dataclass(frozen=True)
class Scribbler(Method):
    """Changes the memory it is given."""

    def init(self, model: LanguageModel) -> Memory:
        return {"count": 0}

    def end(self, memory: Memory, ctx: Context) -> Memory:
        memory["count"] += 1
        return memory


@dataclass(frozen=True)
class Hoarder(Method):
    """Remembers what is not plain data."""

    def init(self, model: LanguageModel) -> Memory:
        return {"model": model}


@dataclass(frozen=True)
class Litterer(Method):
    """Leaves gradients behind."""

    def loss(self, memory: Memory, batch: Batch, ctx: Context) -> float:
        ctx.loss(batch).backward()  # type: ignore[no-untyped-call]
        return 0.0


@dataclass
class Thawed(Method):
    """Is not frozen."""


@dataclass(frozen=True)
class Forgetful(Method):
    """Keeps what it counts out of the memory."""

    def step(self, memory: Memory, grads: Mapping[str, Tensor], update: Mapping[str, Tensor], ctx: Context) -> Memory:
        COUNT.append(1)
        return len(COUNT)


COUNT: list[int] = []


@dataclass(frozen=True)
class Stubborn(Method):
    """Acts even at strength zero."""

    strength: float = 1.0

    def update(self, memory: Memory, update: Mapping[str, Tensor], ctx: Context) -> Mapping[str, Tensor]:
        return {n: u / 2 for n, u in update.items()}


@dataclass(frozen=True)
class Doubler(Method):
    """Applies its change again each time."""

    def params(self, memory: Memory, model: LanguageModel) -> LanguageModel:
        with torch.no_grad():
            for p in model.trainable().values():
                p.mul_(2)
        return model


@dataclass(frozen=True)
class Overwriter(Method):
    """Changes the tensors it is given."""

    def grad(self, memory: Memory, grads: Mapping[str, Tensor], ctx: Context) -> Mapping[str, Tensor]:
        for grad in grads.values():
            grad.mul_(0.5)
        return grads


@dataclass(frozen=True)
class Loser(Method):
    """Returns less than it was given."""

    def update(self, memory: Memory, update: Mapping[str, Tensor], ctx: Context) -> Mapping[str, Tensor]:
        return dict(list(update.items())[1:])


@pytest.mark.parametrize(
    ("method", "says"),
    [
        (Dice(), "does not learn the same twice"),
        (Scribbler(), "changed the memory"),
        (Hoarder(), "memory"),
        (Litterer(), "left gradients"),
        (Thawed(), "not a frozen dataclass"),
        (Forgetful(), "does not learn the same twice"),
        (Stubborn(), "does not learn what plain"),
        (Doubler(), "already had its shape"),
        (Overwriter(), r"grad changed the tensors it was given"),
        (Loser(), "update returned other names"),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, Method) else "",
)
def test_a_broken_method_is_named(method: Method, says: str) -> None:
    with pytest.raises(LawBroken, match=says):
        check(method, [law for law in LAWS if law.__name__ != "is_config"])
