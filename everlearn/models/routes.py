"""How a prompt decides which adapters answer it, and which soft prompts stand before it.

A router is told the prompt of each document, never its answer, and gives two things: weights of adapters, (K,) for the
whole document, and tokens to put in front of it. Both reach the model where tokens do: weights lie at a switch that the
adapted layers read during the pass, and soft prompts are tokens beyond the vocabulary (`models.soft_prompts`), so that
batches, packed rows, shared prompts and decoding treat them as any other token.

The prompt is what stands before the first target; a raw text has its first token alone.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from everlearn.errors import ModelError
from everlearn.examples import Batch

Tokens = Sequence[int]


@dataclass(frozen=True)
class Request:
    """A document to be routed.

    Args:
        prompt: its tokens up to the first target; one at least.
        task: the experience that it belongs to, where the scenario tells; empty where it does not.
        origin: the same, of an example that is learned from; empty at inference, whatever the scenario.
    """

    prompt: Tokens
    task: str = ""
    origin: str = ""


@dataclass(frozen=True)
class Routes:
    """Where requests go, in their order.

    Args:
        weights: (n, K) of each adapter; differentiable where the router learns. None where adapters need none.
        leads: tokens to put in front of each; empty altogether where nothing is put there.
    """

    weights: Tensor | None = None
    leads: tuple[Tokens, ...] = ()


class Switch:
    """Where adapted layers find the weights of the pass under way; the gate of a bank, or a part of one.

    Args:
        count: of adapters, K.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.weights: Tensor | None = None

    def __call__(self, x: Tensor) -> Tensor:
        """The weights of a pass over `x`, (B, T, in); outside of a routed one zero, as if there were no adapter."""
        return x.new_zeros(1, 1, self.count) if self.weights is None else self.weights

    @contextmanager
    def turned(self, weights: Tensor | None) -> Iterator[None]:
        """Inside, layers read these weights, (B, T, K) or (B, 1, K)."""
        before, self.weights = self.weights, weights
        try:
            yield
        finally:
            self.weights = before


class Router(Protocol):
    """A method's rule for where requests go."""

    @property
    def switch(self) -> Switch:
        """What its layers read."""

    def route(self, requests: Sequence[Request]) -> Routes:
        """Where requests go; each one's route is a function of that request alone.

        Raises:
            MethodError: if it needs to be told the experience, and is not.
        """


R = TypeVar("R", bound=Router)


class Routed(Protocol):
    """A model that may have a router."""

    name: str
    router: Router | None


def routed_by(model: Routed, kind: type[R], make: Callable[[], R]) -> R:
    """A model's router, made unless it is there.

    Raises:
        ModelError: if it has one of another kind.
    """
    if model.router is None:
        model.router = make()
    if not isinstance(model.router, kind):
        raise ModelError(f"{model.name} is routed by {type(model.router).__name__} already; chain one such method.")
    return model.router


@contextmanager
def unrouted(model: Routed) -> Iterator[None]:
    """Inside, a model's routed adapters and soft prompts do not act."""
    router, model.router = model.router, None
    try:
        yield
    finally:
        model.router = router


@runtime_checkable
class Identifier(Protocol):
    """A router that infers which experience a prompt belongs to."""

    def identify(self, requests: Sequence[Request]) -> list[tuple[str, float]]:
        """For each request, the experience it is taken for and the confidence in that, in [0, 1]."""


@runtime_checkable
class Calibrator(Protocol):
    """A router that makes candidates of likely experiences likelier."""

    def calibrate(self, requests: Sequence[Request], offered: Sequence[Sequence[str]]) -> list[list[float]]:
        """For each request, what is added to the log-probability of each of its candidates, in nats."""


@dataclass(frozen=True)
class Led:
    """A batch as the model reads it.

    Args:
        batch: with the leads in front of its documents.
        columns: (B, T) the column there of each token of the first batch; None where nothing was put in front.
    """

    batch: Batch
    columns: Tensor | None = None

    def own(self, states: Tensor) -> Tensor:
        """(B, T, ...) the states of the first batch's tokens."""
        if self.columns is None:
            return states
        columns = self.columns.to(states.device)
        return states[torch.arange(len(columns), device=states.device)[:, None], columns]


@contextmanager
def routed(router: Router, batch: Batch, device: torch.device) -> Iterator[Led]:
    """Inside, the batch's weights lie at the router's switch."""
    routes = router.route([request for _, _, request in _requests(batch)])
    led = _led(batch, routes.leads) if any(routes.leads) else Led(batch)
    weights = None if routes.weights is None else _spread(led.batch, routes.weights.to(device))
    with router.switch.turned(weights):
        yield led


@contextmanager
def relaid(router: Router | None, laid: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside, the weights at the router's switch are those that `laid` makes of them, (B, T, K) of (B, T or 1, K)."""
    weights = router.switch.weights if router else None
    if router is None or weights is None:
        yield
        return
    with router.switch.turned(laid(weights)):
        yield


@contextmanager
def placed(router: Router | None, weights: Sequence[Tensor | None]) -> Iterator[None]:
    """Inside, the given weights of rows lie at the router's switch; None among them means that none are routed."""
    found = [w for w in weights if w is not None]
    if router is None or len(found) < len(weights):
        yield
        return
    with router.switch.turned(torch.stack(found)[:, None]):
        yield


def one_hot(names: Sequence[str], known: Sequence[str]) -> Tensor:
    """(n, K) 1 at each name's place among the known, and nothing but 0 for one that is not among them."""
    weights = torch.zeros(len(names), len(known))
    for row, name in enumerate(names):
        if name in known:
            weights[row, list(known).index(name)] = 1
    return weights


def requests(batch: Batch) -> list[Request]:
    """A request for each document of a batch in row-major order; for each row, where its documents share a prompt."""
    return [request for _, _, request in _requests(batch)]


def _requests(batch: Batch) -> list[tuple[int, slice, Request]]:
    """Each request, with its row and its columns."""
    places = documents(batch)
    origins = [e.origin for e in batch.examples] if len(batch.examples) == len(places) else [""] * len(places)
    found = []
    for (row, here), origin in zip(places, origins, strict=True):
        tokens, targets = batch.tokens[row, here].tolist(), batch.supervised[row, here].tolist()
        prompt = tokens[: targets.index(True)] if True in targets else tokens
        found.append((row, here, Request(prompt, batch.tasks[row] if batch.tasks else "", origin)))
    return found


def documents(batch: Batch) -> list[tuple[int, slice]]:
    """Row and columns behind each request: a document's, or those of all that share a prompt."""
    found = []
    for row, numbers in enumerate(batch.segments.tolist()):
        used = sum(number > 0 for number in numbers)
        starts = [c for c in range(used) if c == 0 or (numbers[c] != numbers[c - 1] and not batch.shared)]
        found += [(row, slice(a, b)) for a, b in zip(starts, [*starts[1:], used], strict=True)]
    return found


def _led(batch: Batch, leads: Sequence[Tokens]) -> Led:
    """Put tokens in front of documents; where documents share a prompt, in front of that."""
    rows: list[list[Batch]] = [[] for _ in batch.tokens]
    columns: list[list[Tensor]] = [[] for _ in batch.tokens]
    for (row, here), lead in zip(documents(batch), leads, strict=True):
        at = sum(piece.tokens.shape[0] for piece in rows[row])
        rows[row].append(_piece(batch, row, here, lead))
        columns[row].append(torch.arange(here.stop - here.start) + at + len(lead))
    tokens, positions, segments, supervised = (
        pad_sequence([torch.cat([field(piece) for piece in pieces]) for pieces in rows], batch_first=True)
        for field in (attrgetter("tokens"), attrgetter("positions"), attrgetter("segments"), attrgetter("supervised"))
    )
    led = replace(batch, tokens=tokens, positions=positions, segments=segments, supervised=supervised)
    back = torch.zeros_like(batch.tokens)
    for row, found in enumerate(columns):
        together = torch.cat(found)
        back[row, : len(together)] = together
    return Led(led, back)


def _piece(batch: Batch, row: int, here: slice, lead: Tokens) -> Batch:
    """One document behind its lead, as a batch of one-dimensional tensors."""
    size, own = len(lead), batch.segments[row, here]
    number = 1 if batch.shared else int(own[0])
    return Batch(
        torch.cat([torch.tensor(lead, dtype=torch.long), batch.tokens[row, here]]),
        torch.cat([torch.arange(size), batch.positions[row, here] + size]),
        torch.cat([torch.full((size,), number), own]),
        torch.cat([torch.zeros(size, dtype=torch.bool), batch.supervised[row, here]]),
    )


def _spread(batch: Batch, weights: Tensor) -> Tensor:
    """(n, K) weights of requests as (B, T, K) weights of tokens, or (B, 1, K) where each row is one request."""
    places = documents(batch)
    if len(places) == len(batch.tokens):
        return weights[:, None]
    owner = torch.zeros_like(batch.tokens)
    for number, (row, here) in enumerate(places):
        owner[row, here] = number
    return weights[owner.to(weights.device)]
