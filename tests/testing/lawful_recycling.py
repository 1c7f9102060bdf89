"""Instances of methods that recycle an adapter, for the laws; the adapter and its base are written first."""

import tempfile
from pathlib import Path

import torch

from everlearn.method import chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.recycling import InheritAdapter, OldAdapterKL
from everlearn.models.lora import adapters, wrap
from everlearn.models.peft_format import save_peft
from everlearn.testing.toys import toy_folder, toy_module

FOLDER = tempfile.TemporaryDirectory(prefix="recycled")
BASE, ADAPTER = f"{FOLDER.name}/base", f"{FOLDER.name}/adapter"


def write(adapter: Path, base: Path, seed: int = 3) -> None:
    """A toy, and an adapter of rank 2 on its layers."""
    toy_folder(base, seed)
    module = toy_module(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        wrap(module, "all-linear", 2, 4.0)
        for layer in adapters(module).values():
            torch.nn.init.normal_(layer.B, std=0.1)
    save_peft(module, adapter, str(base))


write(Path(ADAPTER), Path(BASE))

METHODS = [
    chain(LoRA(rank=2), InheritAdapter(ADAPTER)),
    chain(LoRA(rank=2), InheritAdapter(ADAPTER), OldAdapterKL(ADAPTER, BASE, strength=0.5, temperature=2.0)),
]
