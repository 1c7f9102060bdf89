"""Second moments of what goes into layers: which directions of its input a layer has seen, and how strongly."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from everlearn.examples import Batch
from everlearn.models.inputs import layer_inputs
from everlearn.models.language_model import LanguageModel

Where = Callable[[Batch], Tensor]
"""(B, T) bool of a batch: which tokens count."""


def all_tokens(batch: Batch) -> Tensor:
    """All but padding."""
    return batch.segments > 0


def prompt_tokens(batch: Batch) -> Tensor:
    """Those that are no targets: of a conversation its prompt, of a document its first token."""
    return (batch.segments > 0) & ~batch.supervised


def input_moments(model: LanguageModel, names: Sequence[str], batches: Iterable[Batch]) -> dict[str, Tensor]:
    """The mean of x x^T over all tokens but padding, (in, in), at the input of each layer, without gradients.

    Neighbours among the layers that read the same, such as those of keys and values, get the same tensor.

    Args:
        model: it is left as it is.
        names: of linear layers; an adapted one counts as one layer.
        batches: what the model reads.

    Raises:
        ModelError: if a layer does not read every token, as an expert among others does not.
    """
    means, last = dict[str, Tensor](), None
    for name, (_, mean) in input_statistics(model, names, batches, all_tokens).items():
        means[name] = last = last if last is not None and torch.equal(last, mean) else mean
    return means


def input_statistics(
    model: LanguageModel, names: Sequence[str], batches: Iterable[Batch], where: Where
) -> dict[str, tuple[Tensor, Tensor]]:
    """The means of x, (in,), and of x x^T, (in, in), at the input of each layer, without gradients.

    Args:
        model: it is left as it is.
        names: of linear layers; an adapted one counts as one layer.
        batches: what the model reads.
        where: which tokens count.

    Raises:
        ModelError: if a layer does not read every token, as an expert among others does not.
    """
    firsts, seconds, tokens = dict[str, Tensor](), dict[str, Tensor](), 0
    with model.keeping():
        for batch in batches:
            counted = where(batch)
            tokens += int(counted.sum())
            for name, rows in layer_inputs(model, names, batch, counted).items():
                rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
                firsts[name] = rows.sum(0) + firsts.get(name, 0.0)
                seconds[name] = rows.T @ rows + seconds.get(name, 0.0)
    return {name: (firsts[name] / tokens, seconds[name] / tokens) for name in names}
