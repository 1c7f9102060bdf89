"""What the tests of methods with summed adapters share: learning the toy's stream, and the laws of the family."""

from dataclasses import replace

import torch
from torch import Tensor

from everlearn.examples import Plan
from everlearn.learner import Learner, learn
from everlearn.method import Context, Method, chain
from everlearn.models.adapted import adapted
from everlearn.models.language_model import LanguageModel
from everlearn.models.lora import fold
from everlearn.models.optim import AdamW, Recipe
from everlearn.testing.laws import RECIPE
from everlearn.testing.toys import toy_model, toy_stream
from everlearn.types import State

QUICK = replace(RECIPE, optimiser=AdamW(learning_rate=1e-2))


def learned(method: Method, count: int = 2, recipe: Recipe = QUICK) -> tuple[LanguageModel, State]:
    """The toy and its state after its first experiences."""
    learner, model = Learner("toy", method, recipe), toy_model()
    state = learner.start(model)
    for experience in toy_stream().experiences[:count]:
        state = learn(learner, model, state, experience)
    return model, state


def still() -> Recipe:
    """A recipe under which nothing moves."""
    return replace(RECIPE, optimiser=AdamW(learning_rate=0.0))


def at(model: LanguageModel, count: int) -> Context:
    """The moment before an experience of the toy's stream."""
    plan = Plan(QUICK.batch_size, QUICK.tokens, QUICK.length)
    return Context(model, toy_stream().experiences[count], plan, seen=count)


def logits(model: LanguageModel) -> Tensor:
    tokens = torch.arange(36).reshape(3, 12) * 7 % 51
    with torch.no_grad():
        found: Tensor = model.module(tokens).logits
    return found


def folds_exactly(method: Method) -> None:
    """Folding does not change the function, to 1e-10, and the function is not the base's."""
    model, _ = learned(method)
    before = logits(model)
    assert (before - logits(toy_model())).abs().max() > 1e-3
    fold(model.module)
    assert not adapted(model.module)
    assert (logits(model) - before).abs().max() < 1e-10


def begins_where_the_last_experience_ended(method: Method) -> None:
    """A new adapter at initialisation does not change the function."""
    for count in (0, 1, 2):
        model, state = learned(method, count)
        before, whole = logits(model), chain(method)
        whole.params(whole.begin(state.memory, at(model, count)), model)
        assert (logits(model) - before).abs().max() < 1e-10


def leaves_old_adapters_alone(method: Method) -> None:
    """A new experience changes no bit of the old adapters."""
    _, before = learned(method, 2)
    _, after = learned(method, 3)
    old = [name for name in before.weights if ".A." in name or ".B." in name]
    assert old
    assert all(torch.equal(before.weights[name], after.weights[name]) for name in old)
    assert len([n for n in after.weights if ".B." in n]) == 3 * len([n for n in before.weights if ".B.0" in n])
