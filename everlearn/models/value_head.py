"""A head that says how much reward is still to come, on the model's last hidden states."""

import torch
from torch import Tensor, nn

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
        draw = torch.Generator().manual_seed(seed)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.inner, self.outer = nn.Linear(width, hidden), nn.Linear(hidden, 1)
        with torch.no_grad():
            self.inner.weight.copy_(torch.randn(hidden, width, generator=draw) / width**0.5)
            for zero in (self.inner.bias, self.outer.weight, self.outer.bias):
                zero.zero_()

    def forward(self, states: Tensor) -> Tensor:
        """Values, (...)."""
        own = self.inner.weight
        value: Tensor = self.outer(torch.tanh(self.inner(self.norm(states.to(own.device, own.dtype)))))[..., 0]
        return value


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
        ModelError: if the model has no value head.
    """
    head = getattr(model.module, NAME, None)
    if not isinstance(head, ValueHead):
        raise ModelError(
            f"{model.name} has no value head; put Critic() into the method, as in LoRA(rank=16), Critic()."
        )
    with torch.no_grad():
        states = model.hidden(batch)
    before = torch.roll(batch.supervised, -1, dims=1).to(states.device)
    found: Tensor = head(states[before].clone())
    return found
