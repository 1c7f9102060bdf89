"""A model computing with other weights for a moment: an old version as a teacher, without a second model."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

from torch import Tensor, nn

from everlearn.errors import ModelError
from everlearn.models.language_model import LanguageModel


@contextmanager
def recalled(model: LanguageModel, weights: Mapping[str, Tensor]) -> Iterator[LanguageModel]:
    """Inside, the model computes with other values of some parameters, without dropout and without gradients of them.

    The parameters themselves are not written to, only left aside: graphs made outside stay valid, optimisers keep what
    they hold, and what the model says inside is bit for bit what it said when it had these weights. Costs no copy where
    the values have the parameter's dtype and device. Tied parameters are replaced wherever they stand. States that are
    kept below the lowest layer that learns serve inside too, unless a parameter that stands still is replaced: then
    passes begin at the tokens.

    Args:
        model: whose parameters are replaced.
        weights: values by parameter name; what is not named stays.

    Raises:
        ModelError: if a name or a shape does not fit the model.
    """
    module, mine = model.module, model.parameters()
    misfits = [name for name, w in weights.items() if name not in mine or mine[name].shape != w.shape]
    if misfits:
        raise ModelError(
            f"weights for {misfits[0]} ({len(misfits)} in all) do not fit {model.name} as it is now; "
            "they were kept when it had other parameters. Start the stream again with one set of methods."
        )
    others = {
        id(mine[name]): nn.Parameter(w.detach().to(mine[name].device, mine[name].dtype), requires_grad=False)
        for name, w in weights.items()
    }
    found = [(part, leaf, p) for part in module.modules() for leaf, p in part.named_parameters(recurse=False)]
    places = [(part, leaf, p) for part, leaf, p in found if id(p) in others]
    learning, below = module.training, any(not mine[name].requires_grad for name in weights)
    module.eval()
    try:
        _put([(part, leaf, others[id(p)]) for part, leaf, p in places])
        with model.whole() if below else nullcontext():
            yield model
    finally:
        _put(places)
        module.train(learning)


def _put(places: list[tuple[nn.Module, str, nn.Parameter]]) -> None:
    for part, leaf, parameter in places:
        setattr(part, leaf, parameter)
