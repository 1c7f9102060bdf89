"""Soft prompts: learned vectors that a model reads as tokens beyond its vocabulary.

A model of V tokens whose prompts hold n vectors in all reads the ids V to V + n - 1 as these vectors. What stands in
front of a document is then decided by ids alone (see `everlearn.models.routes`).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from everlearn.errors import ModelError
from everlearn.models.language_model import LanguageModel


class SoftPrompts(nn.Module):
    """A frozen token embedding, and prompts behind its last token.

    Prompt i is the parameter `prompts.i` of shape (length, D). It starts as the embeddings of tokens drawn from torch's
    default generator.

    Args:
        base: the model's token embedding; it is frozen.
    """

    def __init__(self, base: nn.Embedding) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.prompts = nn.ParameterList()
        self.encoder: nn.Module | None = None

    @property
    def weight(self) -> Tensor:
        """(V, D) of the tokens alone."""
        return self.base.weight

    @property
    def num_embeddings(self) -> int:
        """V, of the tokens alone."""
        return self.base.num_embeddings

    def add(self, length: int) -> None:
        """One more prompt of `length` vectors."""
        drawn = torch.randint(self.num_embeddings, (length,)).to(self.weight.device)
        kind = torch.promote_types(self.weight.dtype, torch.float32)
        self.prompts.append(nn.Parameter(self.weight[drawn].detach().to(kind)))

    def cut(self, count: int) -> None:
        """Keep the first `count` prompts alone."""
        self.prompts = nn.ParameterList(list(self.prompts)[:count])

    def ids(self, prompt: int) -> range:
        """The token ids that stand for a prompt."""
        start = self.num_embeddings + sum(len(p) for p in list(self.prompts)[:prompt])
        return range(start, start + len(self.prompts[prompt]))

    def vectors(self) -> Tensor:
        """(n, D) of all prompts end to end; the last one as the encoder makes it, where there is one."""
        own = list(self.prompts)
        return torch.cat([*own[:-1], own[-1] if self.encoder is None else self.encoder(own[-1])])

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., D) of (...) ids."""
        beyond = tokens >= self.num_embeddings
        found: Tensor = self.base(tokens.masked_fill(beyond, 0))
        if not bool(beyond.any()):
            return found
        vectors = self.vectors()[tokens[beyond] - self.num_embeddings]
        return found.masked_scatter(beyond[..., None], vectors.to(found.dtype))


def prompted(model: LanguageModel, lengths: Sequence[int]) -> SoftPrompts:
    """Give a model exactly these prompts, and freeze everything; prompts that are there stay as they are.

    Args:
        model: whose embedding is wrapped, unless it is.
        lengths: of all prompts, in the order they were made.

    Raises:
        ModelError: if it has prompts of other lengths.
    """
    module: Any = model.module
    module.requires_grad_(False)
    layer = module.get_input_embeddings()
    if not isinstance(layer, SoftPrompts):
        layer = SoftPrompts(layer)
        module.set_input_embeddings(layer)
    there = [len(p) for p in layer.prompts]
    if there[: len(lengths)] != list(lengths)[: len(there)]:
        raise ModelError(
            f"{model.name} has soft prompts of {there} vectors and cannot have {list(lengths)} too; a model takes the "
            "prompts of one method."
        )
    layer.cut(len(lengths))
    for length in lengths[len(there) :]:
        layer.add(length)
    return layer
