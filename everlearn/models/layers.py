"""A model's layers one by one: which of them learn, what the lower ones make of tokens, and a pass without those.

Any architecture whose inner model keeps its decoder layers in one list, as transformers' do. A layer is left out by
giving it another `forward` for a while: names, hooks, masks and positions stay as they are.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

Inputs = Mapping[str, Any]
"""What a model reads: `input_ids`, `attention_mask`, `position_ids`."""

_TUPLES: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def decoder(module: nn.Module) -> nn.Module:
    """The model without its output head."""
    return module.get_submodule(str(module.base_model_prefix))


def decoder_layers(module: nn.Module) -> list[nn.Module]:
    """The layers from the lowest up; empty where they are not kept in one list of the inner model."""
    count = getattr(getattr(module, "config", None), "num_hidden_layers", None)
    lists = [child for child in decoder(module).children() if isinstance(child, nn.ModuleList)]
    found = [one for one in lists if len(one) == count]
    return list(found[0]) if len(found) == 1 else []


def below(module: nn.Module, count: int) -> dict[str, Tensor]:
    """The parameters that the states after the lowest `count` layers depend on, by name.

    The layers themselves, and what the inner model has before its list of layers: embeddings of tokens and positions.
    """
    layers = decoder_layers(module)
    inner, early = decoder(module), list[nn.Module]()
    for child in inner.children():
        if layers and isinstance(child, nn.ModuleList) and child[0] is layers[0]:
            break
        early.append(child)
    wanted = {id(p) for part in (*early, *layers[:count]) for p in part.parameters()}
    return {name: p for name, p in module.named_parameters() if id(p) in wanted}


def frozen_below(module: nn.Module) -> int:
    """How many of the lowest layers nothing learns in or before; 0 where something before them learns."""
    layers = decoder_layers(module)
    if any(p.requires_grad for p in below(module, 0).values()):
        return 0
    learning = (i for i, layer in enumerate(layers) if any(p.requires_grad for p in layer.parameters()))
    return next(learning, len(layers))


def states_after(module: nn.Module, count: int, inputs: Inputs) -> Tensor:
    """(B, T, D) what the lowest `count` layers, one at least, make of tokens."""
    layers, in_tuple, found = decoder_layers(module), _is_tuple(module), list[Any]()
    watch = layers[count - 1].register_forward_hook(lambda layer, given, made: found.append(made))
    try:
        with _replaced({layer: _passes_on(in_tuple) for layer in layers[count:]}):
            decoder(module)(**inputs, use_cache=False)
    finally:
        watch.remove()
    states: Tensor = found[0][0] if isinstance(found[0], tuple) else found[0]
    return states


@contextmanager
def starting_from(module: nn.Module, count: int, states: Tensor) -> Iterator[None]:
    """Inside, the lowest `count` layers are not computed: the next one gets these (B, T, D) states."""
    lowest, *others = decoder_layers(module)[:count]
    in_tuple = _is_tuple(module)

    def gives(hidden_states: Tensor, *rest: Any, **named: Any) -> Any:
        return (states,) if in_tuple else states

    with _replaced({lowest: gives} | {layer: _passes_on(in_tuple) for layer in others}):
        yield


def drops(layers: Sequence[nn.Module]) -> bool:
    """Whether anything in the layers is dropped at random while learning."""
    parts = [part for layer in layers for part in layer.modules()]
    rates = [part.p for part in parts if isinstance(part, nn.Dropout)]
    rates += [getattr(part, name, 0.0) for part in parts for name in ("dropout", "attention_dropout")]
    return any(isinstance(rate, float) and rate > 0 for rate in rates)


def _is_tuple(module: nn.Module) -> bool:
    """Whether its layers return their states in a tuple; asked once, on a single token."""
    if module not in _TUPLES:
        made = list[Any]()
        watch = decoder_layers(module)[0].register_forward_hook(lambda layer, given, out: made.append(out))
        try:
            with torch.no_grad():
                decoder(module)(torch.zeros(1, 1, dtype=torch.long, device=next(module.parameters()).device))
        finally:
            watch.remove()
        _TUPLES[module] = isinstance(made[0], tuple)
    return _TUPLES[module]


def _passes_on(in_tuple: bool) -> Any:
    def passes_on(hidden_states: Tensor, *rest: Any, **named: Any) -> Any:
        return (hidden_states,) if in_tuple else hidden_states

    return passes_on


@contextmanager
def _replaced(forwards: Mapping[nn.Module, Any]) -> Iterator[None]:
    """Inside, layers have other `forward`s of their own; outside, those of their class again."""
    own = {layer: vars(layer).get("forward") for layer in forwards}
    try:
        for layer, forward in forwards.items():
            layer.forward = forward
        yield
    finally:
        for layer, forward in own.items():
            if forward is None:
                del layer.forward
            else:
                layer.forward = forward
