"""How a machine's memory and disk are used. Nothing here changes what is learned, but by rounding."""

import ctypes
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from weakref import WeakKeyDictionary, WeakSet

import psutil
import torch
from torch import Tensor, nn

from everlearn.errors import ConfigError, ModelError
from everlearn.examples import Batch
from everlearn.files import cache_folder
from everlearn.models.activations import Store
from everlearn.models.language_model import LanguageModel
from everlearn.models.routes import unrouted

PROBE = 64
"""Tokens of the pass whose saved activations are counted."""
SHARE = 0.6
"""Of the free memory that activations may take before they are computed again instead."""
LOG = logging.getLogger(__name__)
_SERVED: WeakSet[nn.Module] = WeakSet()
"""What has learned in this process before."""
_SAVED: WeakKeyDictionary[nn.Module, tuple[int, int]] = WeakKeyDictionary()
"""How many numbers learned when bytes were last counted, and those bytes."""


@dataclass(frozen=True)
class Engine:
    """What may be kept, where, and how much of it.

    Args:
        activations: GB of memory for states below the lowest layer that learns; they are read by later epochs, replay
            and the matrix. 0 keeps none. There are some where the lower layers are frozen, as by `Freeze`.
        disk: GB for those that memory has no room for.
        folder: where they lie on disk; None takes this package's cache.
        checkpointing: whether activations are computed again in the backward pass (arXiv:1604.06174), for a third more
            time. None does so where those of a pass would fill more than 60 % of the free memory.
    """

    activations: float = 2.0
    disk: float = 0.0
    folder: str | None = None
    checkpointing: bool | None = None

    def __post_init__(self) -> None:
        """Refuse negative sizes."""
        if not (0 <= self.activations < float("inf") and 0 <= self.disk < float("inf")):
            raise ConfigError(f"{self}: activations and disk are GB, 0 or more.")

    def store(self) -> Store | None:
        """A place for states, or None where none are to be kept."""
        if not (self.activations or self.disk):
            return None
        folder = Path(self.folder) if self.folder else cache_folder() / "activations"
        return Store(round(self.activations * 1e9), folder, round(self.disk * 1e9))

    @contextmanager
    def serving(self, model: LanguageModel, tokens: int, sharded: bool = False) -> Iterator[None]:
        """Inside, the model learns within the machine's memory.

        Args:
            model: what learns; what stands still stays as it is inside.
            tokens: of one forward pass.
            sharded: whether parameters are. Then all processes have to make the same passes, so that none keeps states,
                and whether activations are computed again is not found out but said.

        Raises:
            ModelError: if checkpointing is asked for and the architecture has none.
        """
        if model.module not in _SERVED:
            _SERVED.add(model.module)
            give_back()
        with nullcontext() if sharded else model.keeping():
            if not self._checkpoints(model, tokens, sharded):
                yield
                return
            switch(model.module, "enable")
            try:
                yield
            finally:
                switch(model.module, "disable")

    def _checkpoints(self, model: LanguageModel, tokens: int, sharded: bool) -> bool:
        able = bool(getattr(model.module, "supports_gradient_checkpointing", False))
        if self.checkpointing is not None:
            if self.checkpointing and not able:
                raise ModelError(f"{model.name} has no gradient checkpointing; leave `checkpointing` out.")
            return self.checkpointing
        if sharded:
            return False
        learning = sum(p.numel() for p in model.trainable().values())
        if _SAVED.get(model.module, (0, 0))[0] != learning:
            _SAVED[model.module] = (learning, saved_bytes(model))
        needed, free = _SAVED[model.module][1] * tokens / PROBE, free_memory(model.device)
        if able and needed > SHARE * free:
            LOG.warning(
                "activations of %d tokens take %.1f GB of %.1f free; they are computed again in the backward pass",
                tokens, needed / 1e9, free / 1e9,
            )  # fmt: skip
            return True
        return False


def switch(module: nn.Module, way: Literal["enable", "disable"]) -> None:
    """Turn a model's checkpointing on or off, by the name that its transformers has for that."""
    newer = getattr(module, f"activation_checkpointing_{way}", None)
    found: Any = newer or getattr(module, f"gradient_checkpointing_{way}")
    found()


def saved_bytes(model: LanguageModel) -> int:
    """Bytes of activations that a pass over `PROBE` tokens keeps for its backward pass; they grow with the tokens."""
    numbers = torch.arange(PROBE)[None]
    tokens = numbers * 7 % 11
    batch = Batch(tokens, numbers, torch.ones_like(tokens), numbers > 0)
    own = {p.untyped_storage().data_ptr() for p in model.parameters().values()}
    sizes: dict[int, int] = {}

    def seen(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor.detach()  # the tensor itself may hold the graph that keeps it, and would never be freed

    looking = torch.autograd.graph.saved_tensors_hooks(seen, lambda tensor: tensor)
    with torch.random.fork_rng(), unrouted(model), looking:
        learning = model.module.training
        model.module.train()
        kept = model.token_logprobs(batch)  # alive until all is counted
        model.module.train(learning)
    del kept
    return sum(sizes.values())


def give_back() -> None:
    """Give the system back what was freed in pieces, as by loading: a first pass would come on top of it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:  # glibc has it
        trim(0)


def free_memory(device: torch.device) -> int:
    """Bytes that a device has free: for torch itself, where it holds memory back."""
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + held
    return int(psutil.virtual_memory().available)
