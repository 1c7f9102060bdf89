"""Adapters in the format of the PEFT library: adapter_config.json beside adapter_model.safetensors."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from everlearn.errors import ModelError
from everlearn.files import read_json, write_json
from everlearn.models.adapted import is_transposed, matrix
from everlearn.models.lora import LoRALinear, adapters, chosen, put
from everlearn.weights import load_tensors, save_tensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
KEY = re.compile(r"base_model\.model\.(?P<layer>.+)\.lora_(?P<matrix>[AB])\.weight")

READ = {"r", "lora_alpha", "lora_dropout", "use_rslora", "init_lora_weights", "bias", "peft_type"}
"""Settings that decide what an adapter computes, and are followed or checked here."""

IDLE = {
    *("auto_mapping", "base_model_name_or_path", "revision", "task_type", "inference_mode", "peft_version"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "fan_in_fan_out"),
    *("megatron_core", "qalora_group_size"),  # act only with megatron_config and use_qalora
}
"""Settings that say where the adapters are, which the weights' own names say too, or that change no number."""

KEEPING = (None, True, False, "gaussian", "orthogonal", "eva")
"""Ways to begin an adapter that leave the base model's weights as they are."""


def save_peft(module: nn.Module, folder: Path, base_name: str) -> None:
    """Write the module's adapters so that PEFT loads them onto the same base model.

    Raises:
        ModelError: if there are none, or not all have the same rank and scale.
    """
    layers = adapters(module)
    settings = {(layer.rank, layer.scale, layer.dropout) for layer in layers.values()}
    if len(settings) != 1:
        raise ModelError(
            f"{folder}: {len(layers)} adapters with {len(settings)} different settings {sorted(settings)[:3]}; "
            "one file holds adapters of one rank, scale and dropout."
        )
    ((rank, scale, dropout),) = settings
    leaves = sorted({name.rpartition(".")[2] for name in layers})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name,
        "r": rank,
        "lora_alpha": scale * rank,
        "lora_dropout": dropout,
        "target_modules": leaves if set(chosen(module, leaves)) == set(layers) else sorted(layers),
        "fan_in_fan_out": any(is_transposed(layer.base) for layer in layers.values()),
        "bias": "none",
        "inference_mode": True,
    }
    start = "base_model.model"
    tensors = {f"{start}.{n}.lora_{k}.weight": t for n, m in layers.items() for k, t in (("A", m.A), ("B", m.B))}
    save_tensors(folder / WEIGHTS, tensors)
    write_json(folder / CONFIG, config)


def load_peft(module: nn.Module, folder: Path) -> dict[str, LoRALinear]:
    """Put a PEFT adapter on the module's layers, in evaluation as in training; all other parameters are frozen.

    Returns:
        The adapted layers by name.

    Raises:
        ModelError: if the adapter is no plain LoRA, or does not fit the module.
    """
    if not (folder / WEIGHTS).is_file() or not (folder / CONFIG).is_file():
        raise ModelError(f"{folder}: needs {CONFIG} and {WEIGHTS}; save the adapter with PEFT's save_pretrained.")
    config = read_json(folder / CONFIG)
    _refuse_what_is_not_plain(config, folder)
    pairs = _pairs(load_tensors(folder / WEIGHTS), folder)
    rank = int(config["r"])
    scale = config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)
    _refuse_what_does_not_fit(module, pairs, rank, folder)
    module.requires_grad_(False)
    for name, (a, b) in pairs.items():
        layer = put(module, name, rank, scale, config.get("lora_dropout", 0.0))
        with torch.no_grad():
            layer.A.requires_grad_(True).copy_(a)
            layer.B.requires_grad_(True).copy_(b)
    return adapters(module)


def _refuse_what_is_not_plain(config: Mapping[str, Any], folder: Path) -> None:
    """Unknown settings count where they are not empty, so that a newer kind of adapter is never read as a plain one."""
    active = {key: value for key, value in config.items() if value and key not in READ | IDLE}
    if config.get("peft_type") != "LORA":
        active["peft_type"] = config.get("peft_type")
    if config.get("bias", "none") != "none":
        active["bias"] = config["bias"]
    if config.get("init_lora_weights") not in KEEPING:
        active["init_lora_weights"] = config["init_lora_weights"]
    if active:
        raise ModelError(
            f"{folder}: no plain LoRA adapter, since it sets {active}. Merge it into its base model with PEFT and load "
            "the merged model, or train it without these."
        )


def _pairs(tensors: Mapping[str, Tensor], folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = KEY.fullmatch(key)
        if match is None:
            raise ModelError(f"{folder}: holds {key}, which is no part of a plain LoRA adapter; save it without that.")
        found.setdefault(match["layer"], {})[match["matrix"]] = tensor
    half = [name for name, pair in found.items() if len(pair) != 2]
    if half or not found:
        raise ModelError(
            f"{folder}: {half[0] if half else 'every layer'} lacks one of A and B; save the adapter again."
        )
    return {name: (pair["A"], pair["B"]) for name, pair in found.items()}


def _refuse_what_does_not_fit(
    module: nn.Module, pairs: Mapping[str, tuple[Tensor, Tensor]], rank: int, folder: Path
) -> None:
    chosen(module, list(pairs))
    for name, (a, b) in pairs.items():
        layer = module.get_submodule(name)
        wide = tuple(matrix(layer.base if isinstance(layer, LoRALinear) else layer).shape)
        if (*b.shape, *a.shape) != (wide[0], rank, rank, wide[1]):
            raise ModelError(
                f"{folder}: adapts {name} with A {tuple(a.shape)} and B {tuple(b.shape)} at rank {rank}, and the layer "
                f"is {wide}; load the base model it was made for."
            )
