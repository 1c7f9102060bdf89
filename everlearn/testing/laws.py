"""What every method obeys, ours or a stranger's: `check(method)` tries each law on the toy and names the one broken."""

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from everlearn.arguments import is_frozen
from everlearn.config import dump, parse_method, restore, show
from everlearn.errors import EverlearnError, Interrupted, MethodError
from everlearn.learner import Learner, learn
from everlearn.method import Context, Method, chain, overrides
from everlearn.models.language_model import LanguageModel
from everlearn.models.optim import AdamW, Recipe
from everlearn.testing.toys import toy_model, toy_stream
from everlearn.types import Experience, Memory, State, Stream
from everlearn.watch import Watch
from everlearn.weights import Tensors, equal, pack, unpack

RECIPE = Recipe(AdamW(learning_rate=1e-2), batch_size=4, length=64, tokens=128)
NEUTRAL = {"strength": 0.0, "fraction": 0.0}
"""Fields whose zero means plain fine-tuning."""

Law = Callable[[Any], None]


class LawBroken(MethodError):
    """A method breaks a law that all methods obey; the message names the law and what was seen."""


def learned(method: Method, stream: Stream | None = None, seed: int = 0) -> State:
    """The state after a method has learned the toy's stream."""
    learner = Learner("toy", method, RECIPE, seed)
    model = toy_model()
    state = learner.start(model)
    for experience in stream or toy_stream():
        state = learn(learner, model, state, experience)
    return state


def is_frozen_data(method: Any) -> None:
    """A method is a frozen dataclass: it prints, compares and hashes, and nobody can change it."""
    if not is_frozen(type(method)):
        raise LawBroken(f"{type(method).__name__} is not a frozen dataclass; decorate it with @dataclass(frozen=True).")
    if hash(method) != hash(replace(method)) or method != replace(method):
        raise LawBroken(f"{method} does not equal its own copy; compare by fields alone.")


def is_config(method: Method) -> None:
    """A method is its own configuration: as plain data and as an expression, it comes back equal."""
    if restore(dump(method)) != method:
        raise LawBroken(f"{method} is not restored from {dump(method)}; make its fields plain data.")
    if parse_method(show(method)) != chain(method):
        raise LawBroken(f"{method} is not what its expression {show(method)!r} stands for.")


def is_deterministic(method: Method) -> None:
    """The same learner on the same stream reaches the same bits, whatever torch's generator was before."""
    torch.manual_seed(1)
    first = learned(method)
    torch.manual_seed(2)
    _require_equal(method, first, learned(method), "does not learn the same twice; draw from ctx.rng() alone")


def is_the_same_in_a_chain(method: Method) -> None:
    """Chaining with nothing changes nothing."""
    alone, chained = learned(method), learned(chain(chain(), method, chain()))
    _require_equal(method, alone, chained, "learns otherwise in a chain of one")


def resumes(method: Method) -> None:
    """Stopped after any step and resumed on a fresh model, an experience ends in the same bits."""
    straight = learned(method)
    learner = Learner("toy", method, RECIPE, 0)
    with tempfile.TemporaryDirectory() as folder:
        model, state = toy_model(), learner.start(toy_model())
        for experience in toy_stream():
            model, candidate = _interrupted(learner, model, state, experience, Path(folder) / experience.name)
            state = candidate
    _require_equal(method, straight, state, "does not resume: keep all that changes in the memory")


def memory_is_plain_data(method: Method) -> None:
    """The memory can be written and read: None, numbers, strings, tensors, and lists, tuples and dicts of them."""
    memory = learned(method).memory
    skeleton, tensors = pack(memory)
    again, more = pack(unpack(skeleton, tensors))
    if skeleton != again or not equal(tensors, more):
        raise LawBroken(f"{method}: its memory does not come back from a file as it was.")


def leaves_memory_alone(method: Method) -> None:
    """A hook returns a new memory and never changes the one it was given, nor any gradient in `.grad`."""
    ctx, memory = _between(method)
    for name, hook in _hooks(chain(method), memory, ctx).items():
        before = _frozen(memory)
        hook()
        if _frozen(memory) != before:
            raise LawBroken(f"{method}.{name} changed the memory it was given; return a new one.")
        touched = [n for n, p in ctx.trainable().items() if p.grad is not None]
        if touched:
            raise LawBroken(f"{method}.{name} left gradients in .grad of {touched[:3]}; use ctx.grads().")


def returns_what_it_was_given(method: Method) -> None:
    """`start`, `grad`, `update` and `merge` keep names and shapes; they and `step` leave what they get alone."""
    ctx, memory = _between(method)
    whole = chain(method)
    sides: dict[str, Callable[[Tensors, Tensors], Any]] = {
        "start": lambda one, other: whole.start(memory, one, ctx),
        "grad": lambda one, other: whole.grad(memory, one, ctx),
        "update": lambda one, other: whole.update(memory, one, ctx),
        "merge": lambda one, other: whole.merge(memory, one, other, ctx),
        "step": lambda one, other: whole.step(memory, one, other, ctx),
    }
    for name in sorted(sides.keys() & overrides(method)):
        one = {n: p.detach() + 1 for n, p in ctx.trainable().items()}
        other = {n: t / 2 for n, t in one.items()}
        before = _frozen([one, other])
        returned = sides[name](one, other)
        if _frozen([one, other]) != before:
            raise LawBroken(f"{method}.{name} changed the tensors it was given in place; return new ones.")
        if name != "step" and {n: t.shape for n, t in returned.items()} != {n: t.shape for n, t in one.items()}:
            raise LawBroken(f"{method}.{name} returned other names or shapes than it was given; return them all.")


def params_is_idempotent(method: Method) -> None:
    """`params` applied again changes neither names nor values, and rebuilds a saved version."""
    learner, model = Learner("toy", method, RECIPE, 0), toy_model()
    state = learn(learner, model, learner.start(model), toy_stream().experiences[0])
    before = {n: p.detach().clone() for n, p in model.parameters().items()}
    chain(method).params(state.memory, model)
    if not equal(before, _values(model)):
        raise LawBroken(f"{method}.params changed a model that already had its shape.")
    if not equal(before, _values(learner.restore(toy_model(), state))):
        raise LawBroken(f"{method}: a saved version is not rebuilt by params and weights.")


def nothing_at_strength_zero(method: Any) -> None:
    """A method whose strength or fraction is zero is plain fine-tuning, bit for bit."""
    fields = {f.name for f in dataclasses.fields(method)}
    zero = {name: value for name, value in NEUTRAL.items() if name in fields}
    if zero:
        weak = replace(method, **zero)
        if not equal(learned(weak).weights, learned(chain()).weights):
            raise LawBroken(
                f"{weak} does not learn what plain fine-tuning learns; "
                f"{' and '.join(zero)} of zero means that everywhere: name a field of another meaning otherwise."
            )


LAWS: tuple[Law, ...] = (
    is_frozen_data,
    is_config,
    is_deterministic,
    is_the_same_in_a_chain,
    resumes,
    memory_is_plain_data,
    leaves_memory_alone,
    returns_what_it_was_given,
    params_is_idempotent,
    nothing_at_strength_zero,
)


def check(method: Method, laws: Sequence[Law] = LAWS) -> None:
    """Try every law on a method; a few seconds on the toy.

    Raises:
        LawBroken: naming the first law that does not hold, and what to do.
    """
    for law in laws:
        try:
            law(method)
        except EverlearnError as error:
            if isinstance(error, LawBroken):
                raise
            raise LawBroken(f"{method} fails while `{law.__name__}` is tried: {error}") from error


def _interrupted(
    learner: Learner, model: LanguageModel, state: State, experience: Experience, folder: Path
) -> tuple[LanguageModel, State]:
    """Learn an experience, stopped after its second step and resumed on a model opened afresh."""
    asked = iter((False, True))
    with suppress(Interrupted):
        learn(learner, model, state, experience, Watch(folder, stop=lambda: next(asked, False)))
    fresh = learner.restore(toy_model(), state)
    return fresh, learn(learner, fresh, state, experience, Watch(folder))


def _between(method: Method) -> tuple[Context, Memory]:
    """The moment before the second experience: what a hook may look at, and the method's memory."""
    learner, stream, model = Learner("toy", method, RECIPE, 0), toy_stream(), toy_model()
    state = learn(learner, model, learner.start(model), stream.experiences[0])
    return Context(model, stream.experiences[1], seed=0, seen=1, factor=1.0), state.memory


def _hooks(method: Method, memory: Memory, ctx: Context) -> dict[str, Callable[[], Any]]:
    """The overridden hooks, ready to be called."""
    weights: dict[str, Tensor] = {n: p.detach().clone() for n, p in ctx.trainable().items()}
    batch = next(ctx.batches(ctx.experience.train))
    calls: dict[str, Callable[[], Any]] = {
        "begin": lambda: method.begin(memory, ctx),
        "step": lambda: method.step(memory, weights, weights, ctx),
        "end": lambda: method.end(memory, ctx),
        "data": lambda: list(method.data(memory, ctx.experience.train, ctx)),
        "params": lambda: method.params(memory, ctx.model),
        "start": lambda: method.start(memory, weights, ctx),
        "loss": lambda: method.loss(memory, batch, ctx),
        "grad": lambda: method.grad(memory, weights, ctx),
        "update": lambda: method.update(memory, weights, ctx),
        "merge": lambda: method.merge(memory, weights, weights, ctx),
    }
    return {name: call for name, call in calls.items() if name in overrides(method)}


def _frozen(memory: Memory) -> tuple[Any, dict[str, bytes]]:
    skeleton, tensors = pack(memory)
    return repr(skeleton), {
        n: t.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes() for n, t in tensors.items()
    }


def _values(model: LanguageModel) -> dict[str, Tensor]:
    return {n: p.detach() for n, p in model.parameters().items()}


def _require_equal(method: Method, a: State, b: State, what: str) -> None:
    if not equal(a.weights, b.weights) or _frozen(a.memory) != _frozen(b.memory):
        raise LawBroken(f"{method} {what}.")
