"""Second moments of what goes into layers: which directions of its input a layer has seen, and how strongly."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from everlearn.examples import Batch
from everlearn.models.inputs import layer_inputs
from everlearn.models.language_model import LanguageModel


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
    totals, tokens = dict[str, Tensor](), 0
    for batch in batches:
        where = batch.segments > 0
        tokens += int(where.sum())
        for name, rows in layer_inputs(model, names, batch, where).items():
            rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
            totals[name] = rows.T @ rows + totals.get(name, 0.0)
    means, last = dict[str, Tensor](), None
    for name in names:
        mean = totals[name] / tokens
        means[name] = last = last if last is not None and torch.equal(last, mean) else mean
    return means
