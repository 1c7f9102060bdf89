"""Rotary position embeddings (RoFormer, arXiv:2104.09864) that reach further than a model was trained to.

Pair i of a head's D / 2 pairs of dimensions turns by theta_i radians from a token to the next, most often base to the
power of -2 i / D; its wavelength is 2 pi / theta_i tokens. Each function gives other frequencies for a context that is
`factor` times as long as the one that the model was trained to; a factor below 1 makes it shorter.

A model with other frequencies says so in its configuration, as the factors by pair that transformers calls "longrope",
so that it can be saved and read by others.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from everlearn.errors import ModelError
from everlearn.models.layers import decoder

Change = Callable[[Tensor], tuple[Tensor, float]]
"""From a model's own frequencies, (D / 2,) in float64, to others, and by how much cosines and sines are multiplied."""
UNTOUCHED = "everlearn_untouched"
"""Under which attribute a module keeps what it was before."""


@dataclass(frozen=True)
class _Untouched:
    """A rotary embedding as it was opened, and whose frequencies it has now."""

    by: str
    frequencies: Tensor
    scaling: float
    kind: str
    parameters: Mapping[str, Any]
    positions: int


def interpolated(frequencies: Tensor, factor: float) -> Tensor:
    """All pairs turn slower by the factor: position m stands where m / s stood (arXiv:2306.15595)."""
    return frequencies / factor


def rebased(frequencies: Tensor, ratio: float) -> Tensor:
    """Frequencies of a base that is `ratio` times the model's: the first pair keeps its own."""
    pairs = len(frequencies)
    return frequencies * ratio ** (-torch.arange(pairs, dtype=frequencies.dtype) / pairs)


def ntk_ratio(pairs: int, factor: float) -> float:
    """By how much a base grows so that the slowest pair turns slower by the factor (arXiv:2309.00071, sec. 3.1)."""
    return math.pow(factor, pairs / (pairs - 1))


def by_parts(frequencies: Tensor, factor: float, original: int, slow: float = 1.0, fast: float = 32.0) -> Tensor:
    """Slow pairs are interpolated, fast ones keep their own (NTK-by-parts, arXiv:2309.00071, sec. 3.2).

    Args:
        frequencies: (D / 2,).
        factor: s.
        original: L, tokens that the model was trained to.
        slow: alpha: pairs that turn round less often than this in L tokens are interpolated.
        fast: beta: pairs that turn round more often are left; between the two the ramp is linear in that number.
    """
    turns = original * frequencies / (2 * math.pi)
    kept = ((turns - slow) / (fast - slow)).clamp(0, 1)
    return (1 - kept) * frequencies / factor + kept * frequencies


def by_parts_of_index(
    frequencies: Tensor, factor: float, original: int, slow: float = 1.0, fast: float = 32.0
) -> Tensor:
    """As `by_parts`, with a ramp that is linear in the pair's number, between whole numbers: the authors' code.

    Raises:
        ModelError: if the frequencies are no powers of a base.
    """
    logs = frequencies.log()
    step = float(logs[0] - logs[1])
    if not torch.allclose(logs[:-1] - logs[1:], logs.new_tensor(step), rtol=1e-4):
        raise ModelError("the rotary frequencies are no powers of one base; take formula='paper', which needs none.")
    first, last = (float(logs[0] + math.log(original / (2 * math.pi * n))) / step for n in (fast, slow))
    low, high = max(math.floor(first), 0), min(math.ceil(last), 2 * len(frequencies) - 1)
    numbers = torch.arange(len(frequencies), dtype=frequencies.dtype)
    kept = 1 - ((numbers - low) / (high - low or 0.001)).clamp(0, 1)
    return (1 - kept) * frequencies / factor + kept * frequencies


def temperature(factor: float) -> float:
    """sqrt(1 / t) = 0.1 ln s + 1, by which both queries and keys are multiplied (arXiv:2309.00071, sec. 3.4)."""
    return 0.1 * math.log(factor) + 1 if factor > 1 else 1.0


def turn(module: nn.Module, by: str, change: Change | None, length: int) -> None:
    """Give a model other frequencies, made from those it was opened with, however often this is done.

    Args:
        module: a causal language model of transformers.
        by: who asks; nobody else may ask afterwards.
        change: to which; None puts its own back, to the bit.
        length: tokens that it can then read; its configuration says no less.

    Raises:
        ModelError: if its positions are no rotary embedding with one set of frequencies, or another has changed them.
    """
    rotaries, config = _rotaries(module), _config(module)
    own = _untouched(module, by)
    changed, scaling = (own.frequencies, 1.0) if change is None else change(own.frequencies.double().cpu())
    for rotary in rotaries:
        with torch.no_grad():
            rotary.inv_freq.copy_(changed)
        rotary.attention_scaling = own.scaling * scaling
        rotary.rope_type = own.kind if change is None else "default"  # a fixed set of frequencies
    parameters = dict(own.parameters) if change is None else _factors(own, changed, own.scaling * scaling)
    config.rope_parameters = parameters
    config.max_position_embeddings = max(length, config.max_position_embeddings)


def shorten(module: nn.Module, length: int) -> None:
    """Cut a model back to a short context, for experiments on making it longer again.

    Slow pairs of dimensions turn faster, by parts: at `length` tokens they have turned as far as they had at the
    longest text that the model was trained to, and beyond it they get where they never were. Pairs that turn round
    often even in a short text stay, so that what is near is still read as before; a little training mends the rest.

    Args:
        module: a causal language model of transformers, as it was opened.
        length: its context from now on, in tokens; save and open the model to extend it.

    Raises:
        ModelError: if it is no shorter than the model's own, or its positions are not rotary.
    """
    own = int(_config(module).max_position_embeddings)
    if not 1 < length < own:
        raise ModelError(f"a model trained to {own} tokens is not cut back to {length}; give fewer, 2 at least.")
    turn(module, "shorten", lambda theta: (by_parts(theta, length / own, own), 1.0), length)
    _config(module).max_position_embeddings = length


def allow(module: nn.Module, length: int) -> None:
    """Let a model be asked about so many tokens, trained to them or not, if its positions are rotary and fixed."""
    try:
        _untouched(module, "")
    except ModelError:  # a table of positions, or frequencies that hang on the configuration's word
        return
    config = _config(module)
    config.max_position_embeddings = max(length, config.max_position_embeddings)


def base(module: nn.Module) -> float:
    """The base of a model's own frequencies."""
    return float(_untouched(module, "").parameters["rope_theta"])


def context(module: nn.Module) -> int:
    """Tokens that a model was trained to, as its configuration said when it was opened.

    Raises:
        ModelError: if its positions are no rotary embedding with one set of frequencies.
    """
    return _untouched(module, "").positions


def _has_frequencies(part: nn.Module) -> bool:
    return "Rotary" in type(part).__name__ and isinstance(getattr(part, "inv_freq", None), Tensor)


def _config(module: Any) -> Any:
    return module.config.get_text_config(decoder=True)


def _rotaries(module: nn.Module) -> list[Any]:
    """The parts of a model that make angles of positions, alike in all layers."""
    found = [part for part in decoder(module).modules() if _has_frequencies(part)]
    parameters = getattr(_config(module), "rope_parameters", None)
    two = isinstance(parameters, dict) and parameters.get("long_factor") != parameters.get("short_factor")
    kinds = {vars(part).get("rope_type") for part in found}
    if not found or not isinstance(parameters, dict) or "rope_theta" not in parameters or two or "dynamic" in kinds:
        what = f"frequencies of kind {sorted(map(str, kinds))}" if found else "no rotary embedding with one set of them"
        raise ModelError(
            f"{type(module).__name__} has {what}, which cannot be changed for a longer context; take a model whose "
            "rotary embedding is the same in all layers and for all lengths."
        )
    return found


def _untouched(module: nn.Module, by: str) -> _Untouched:
    """What a model was when it was first asked for; `by` is empty for who only looks."""
    (rotary, *_), config = _rotaries(module), _config(module)
    kept: _Untouched | None = vars(rotary).get(UNTOUCHED)
    if kept is None:
        about = (float(rotary.attention_scaling), str(rotary.rope_type), dict(config.rope_parameters))
        kept = _Untouched(by, rotary.inv_freq.clone(), *about, int(config.max_position_embeddings))
    if by and kept.by not in ("", by):
        raise ModelError(
            f"{kept.by} and {by} both change the frequencies of positions; a chain has room for one of them, and a "
            "model that was cut back is saved and opened first."
        )
    kept = replace(kept, by=by or kept.by)
    vars(rotary)[UNTOUCHED] = kept
    return kept


def _factors(own: _Untouched, changed: Tensor, scaling: float) -> dict[str, Any]:
    """What the configuration says of frequencies that are powers of no base."""
    numbers = torch.arange(len(changed), dtype=torch.float64) / len(changed)
    factors = (float(own.parameters["rope_theta"]) ** -numbers / changed).tolist()
    said = {"rope_type": "longrope", "long_factor": factors, "short_factor": factors, "attention_factor": scaling}
    kept = {name: own.parameters[name] for name in ("rope_theta", "partial_rotary_factor") if name in own.parameters}
    return kept | said | {"factor": 1.0, "original_max_position_embeddings": own.positions}
