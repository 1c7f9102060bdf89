"""A head that says how much reward is still to come, on the model's last hidden states."""

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear

from everlearn.errors import ModelError
from everlearn.examples import Batch
from everlearn.models.language_model import LanguageModel

NAME = "critic"
"""Of the head inside the model's module: its parameters are the model's, and are kept with a version."""


class ValueHead(nn.Module):
    """From (..., D) states to values, through one hidden layer; 0 until it has learned.

    Args:
        width: D.
        hidden: width of the hidden layer.
        seed: of its first weights.
    """

    def __init__(self, width: int, hidden: int, seed: int = 0) -> None:
        super().__init__()
        first = torch.randn(hidden, width, generator=torch.Generator().manual_seed(seed)) / width**0.5
        # Bare parameters: adapters that look for linear layers leave them alone.
        self.inner, self.inner_bias = nn.Parameter(first), nn.Parameter(torch.zeros(hidden))
        self.outer, self.outer_bias = nn.Parameter(torch.zeros(1, hidden)), nn.Parameter(torch.zeros(1))

    def forward(self, states: Tensor) -> Tensor:
        """Values, (...)."""
        normal = layer_norm(states.to(self.inner.device, self.inner.dtype), states.shape[-1:])
        return linear(torch.tanh(linear(normal, self.inner, self.inner_bias)), self.outer, self.outer_bias)[..., 0]


def attach(model: LanguageModel, hidden: int) -> ValueHead:
    """The model's value head; made in full precision where there is none yet.

    Args:
        model: is given the head.
        hidden: width of its hidden layer.
    """
    found = getattr(model.module, NAME, None)
    if isinstance(found, ValueHead):
        return found
    kind = torch.promote_types(next(model.module.parameters()).dtype, torch.float32)
    width = model.module.get_input_embeddings().weight.shape[1]  # type: ignore[operator]
    head = ValueHead(width, hidden).to(model.device, kind)
    model.module.add_module(NAME, head)
    return head


def values(model: LanguageModel, batch: Batch) -> Tensor:
    """What the head expects before each supervised token, in row-major order, (N,); the model itself gets no gradient.

    Raises:
        ModelError: if the model has no value head, or one that does not learn.
    """
    head = getattr(model.module, NAME, None)
    if not isinstance(head, ValueHead):
        raise ModelError(
            f"{model.name} has no value head; put Critic() into the method, as in LoRA(rank=16), Critic()."
        )
    if not head.inner.requires_grad:
        raise ModelError("the value head does not learn: a method behind Critic() freezes it; put Critic() last.")
    with torch.no_grad():
        states = model.hidden(batch)
    before = torch.roll(batch.supervised, -1, dims=1).to(states.device)
    found: Tensor = head(states[before].clone())
    return found
