"""Versions that an objective looks at while it learns: weights held beside the live model's."""

from collections.abc import Callable, Mapping

from torch import Tensor

from everlearn.errors import ModelError
from everlearn.method import Method
from everlearn.models.language_model import LanguageModel
from everlearn.types import Memory
from everlearn.weights import Tensors

BASE = "base"


def base_weights(
    opened: Callable[[], LanguageModel], method: Method, memory: Memory, changed: Tensors, start: Tensors
) -> Tensors:
    """What parameters were before anything was learned; those that methods have added, as they begin.

    Args:
        opened: opens the base model.
        method: whose parameters are added. What most add does not change what the model says until it is learned; what
            `L2P`, `ProgressivePrompts` and `DepthSplice` add does, and counts as the base model's.
        memory: of the method.
        changed: weights that differ from the base model's; none at the first experience, which starts from it.
        start: the weights that learn, as the experience begins.
    """
    if not changed:
        return start
    parameters = method.params(memory, opened()).parameters()
    return {name: parameters[name].detach() for name in {*changed, *start}}


class References:
    """The weights of other versions, and their running means.

    Args:
        wanted: by name, the decay of a running mean in each step; 1 stands still.
        start: makes a copy of the weights that learn, as the experience begins; asked where one is wanted.
        base: from those, what they and all others that have changed were before anything was learned.
        sharded: whether parameters lie in parts.

    Raises:
        ModelError: if versions are wanted and parameters are sharded.
    """

    def __init__(
        self,
        wanted: Mapping[str, float],
        start: Callable[[], Tensors],
        base: Callable[[Tensors], Tensors],
        sharded: bool,
    ) -> None:
        if wanted and sharded:
            raise ModelError(
                f"the objective looks at {sorted(wanted)}, and parameters are sharded, so that no process can hold "
                "another version; launch without FSDP, set the strength of the divergence to 0, or take an objective "
                "without a reference, as SimPO."
            )
        self.wanted = wanted
        self.weights = {name: dict(base(start()) if name == BASE else start()) for name in wanted}

    @property
    def moving(self) -> bool:
        """Whether any of them changes."""
        return any(decay < 1 for decay in self.wanted.values())

    def step(self, values: Tensors) -> None:
        """Let running means follow the weights after an optimiser step."""
        for name, decay in self.wanted.items():
            for key, held in self.weights[name].items() if decay < 1 else ():
                held.lerp_(values[key].to(held), 1 - decay)

    def state(self) -> dict[str, dict[str, Tensor]]:
        """What has moved, for a checkpoint."""
        return {name: self.weights[name] for name, decay in self.wanted.items() if decay < 1}

    def load_state(self, state: Mapping[str, Tensors]) -> None:
        """The inverse of `state`."""
        for name, weights in state.items():
            for key, held in self.weights[name].items():
                held.copy_(weights[key])
