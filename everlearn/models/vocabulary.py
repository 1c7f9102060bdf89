"""A vocabulary that grows: rows for new tokens beside the old ones, which stay where and what they are.

An old embedding is not copied into a larger one. Its parameter keeps its name, its storage and its bits, and new rows
are parameters of their own, "new.0", "new.1" and so on, one for each time that the vocabulary grew: a version then
holds the new rows and no more, freezing the old rows is exact, and logits of old tokens come from the same product of
the same matrices as before, so that they are the same to the bit.

Tokens are numbered on from the tokenizer's last one. Models often have more rows than their tokenizer has tokens, for a
round number; a new token whose number falls among these takes the place of such a row, which nothing else stands for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import linear

from everlearn.errors import ModelError
from everlearn.models.adapted import adapted
from everlearn.models.language_model import LanguageModel


@dataclass(frozen=True)
class Growth:
    """Tokens that joined a vocabulary together.

    Args:
        tokens: as they stand in texts.
        rows: (K, D) their first input embeddings.
        head: (K, D) their first output embeddings; None where the head is tied to the input embedding.
    """

    tokens: tuple[str, ...]
    rows: Tensor
    head: Tensor | None = None


class GrownEmbedding(nn.Module):
    """An input embedding with new rows.

    Args:
        old: the model's own; what else than looking up it does (such as scaling) is done to new rows too.
        first: the number of the first new token.
        new: the new rows by growth, to be shared with a tied head.
    """

    def __init__(self, old: nn.Module, first: int, new: nn.ParameterList) -> None:
        super().__init__()
        self.hidden = (old, _without_padding(old))  # in a tuple, so that the old parameter has one name: its own
        self.first, self.new = first, new
        self._parameters["weight"] = old._parameters["weight"]
        self.train(old.training)

    @property
    def weight(self) -> Tensor:
        """(V, D) all rows, a copy; the old ones alone are the parameter of that name."""
        return _whole(_old(self, "weight"), self.first, list(self.new))

    @property
    def num_embeddings(self) -> int:
        """V, new tokens included."""
        return max(len(_old(self, "weight")), self.first + sum(map(len, self.new)))

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., D) of (...) tokens."""
        beyond, (old, plain) = tokens - self.first, self.hidden
        count = sum(map(len, self.new))
        is_new = (beyond >= 0) & (beyond < count)
        found: Tensor = functional_call(old, {"weight": _old(self, "weight")}, (tokens.masked_fill(is_new, 0),))
        if not count:
            return found
        rows = torch.cat(list(self.new))
        mine = functional_call(plain, {"weight": rows}, (beyond.masked_fill(~is_new, 0),))
        return torch.where(is_new[..., None], mine, found)


class GrownHead(nn.Module):
    """An output embedding with new rows; a bias grows by the mean of the old ones, which does not learn.

    Args:
        old: the model's own, linear.
        first: the number of the first new token.
        new: the new rows by growth; the input embedding's own where the head is tied.
    """

    def __init__(self, old: nn.Linear, first: int, new: nn.ParameterList) -> None:
        super().__init__()
        self.first, self.new = first, new
        self._parameters["weight"] = old._parameters["weight"]
        self._parameters["bias"] = old._parameters["bias"]
        self.train(old.training)

    @property
    def weight(self) -> Tensor:
        """(V, D) all rows, a copy; the old ones alone are the parameter of that name."""
        return _whole(_old(self, "weight"), self.first, list(self.new))

    @property
    def bias(self) -> Tensor | None:
        """(V,) all biases, or None."""
        old = self._parameters["bias"]
        if old is None:
            return None
        return _whole(old, self.first, [old.detach().mean().expand(len(rows)) for rows in self.new])

    def forward(self, states: Tensor) -> Tensor:
        """(..., V) logits of (..., D) states; those of old tokens from the very product that gave them before."""
        before, bias = linear(states, _old(self, "weight"), self._parameters["bias"]), self.bias
        ends = [self.first + sum(map(len, list(self.new)[: i + 1])) for i in range(len(self.new))]
        parts = [
            linear(states, rows, None if bias is None else bias[end - len(rows) : end])
            for rows, end in zip(self.new, ends, strict=True)
        ]
        return torch.cat([before[..., : self.first], *parts, before[..., (ends or [self.first])[-1] :]], -1)


def grow_vocabulary(model: LanguageModel, first: int, growths: Sequence[Growth]) -> list[nn.Parameter]:
    """Give a model and its tokenizer new tokens; what is there already stays as it is.

    Args:
        model: whose tokenizer and embeddings grow.
        first: the number of the first new token: how many the tokenizer had before any of them.
        growths: from the first on.

    Returns:
        The new rows: of each growth those of the input embedding, and those of the head unless it is tied.

    Raises:
        ModelError: if the model has grown otherwise, its embedding is adapted, or the tokenizer has more tokens than
            the model has rows.
    """
    add_tokens(model.tokenizer, model.name, first, [token for growth in growths for token in growth.tokens])
    embedding, head = _layers(model, first)
    tied = head.new is embedding.new
    for number, growth in enumerate(growths):
        for layer, rows in [(embedding, growth.rows)] + ([] if tied else [(head, growth.head)]):
            _require_rows(layer, number, growth, rows)
            if number == len(layer.new):
                layer.new.append(_parameter(rows, _old(layer, "weight")))
    if len(embedding.new) > len(growths):
        raise ModelError(
            f"{model.name} has grown {len(embedding.new)} times, and is asked for {len(growths)}; "
            "rebuild a version on a model that is opened afresh."
        )
    config = _config(model)
    config.vocab_size = embedding.num_embeddings
    return [*embedding.new, *([] if tied else head.new)]


def add_tokens(tokenizer: Any, name: str, first: int, tokens: Sequence[str]) -> None:
    """Number new tokens on from `first`; a tokenizer that has them already has them at these numbers.

    Args:
        tokenizer: which they join.
        name: of its model.
        first: how many tokens it had before any of them.
        tokens: all that joined, in order.

    Raises:
        ModelError: if it cannot number them so.
    """
    known = len(tokenizer)
    added = [AddedToken(token, normalized=False) for token in tokens[max(0, known - first) :]]
    if added:
        tokenizer.add_tokens(added)
    numbers = tokenizer.convert_tokens_to_ids(list(tokens))
    wrong = [token for place, token in enumerate(tokens) if numbers[place] != first + place]
    if known < first or wrong:
        raise ModelError(
            f"{name}: its tokenizer, of {known} tokens, cannot number {wrong[:3] or list(tokens[:3])} from {first} on; "
            "new tokens are none of its own, each comes once, and a version goes with the tokenizer it was made with."
        )


def is_tied(module: Any) -> bool:
    """Whether input and output embedding are one parameter."""
    layers = module.get_input_embeddings(), module.get_output_embeddings()
    one, other = (layer._parameters["weight"] for layer in layers)
    return one is other


def save_grown(model: LanguageModel, folder: Path) -> None:
    """Write model and tokenizer as transformers does and reads them, new rows in their places among the old ones.

    The model in memory stays as it is.

    Raises:
        ModelError: if it has adapters, which are folded first.
    """
    if adapted(model.module):
        raise ModelError(f"{model.name} has adapters; fold them into their layers, then save it.")
    module: Any = model.module
    layers = module.get_input_embeddings(), module.get_output_embeddings()
    whole = {name: p for name, p in module.state_dict().items() if ".new." not in f".{name}"}
    for layer in layers:
        for name in [n for n, p in module.named_parameters(remove_duplicate=False) if p is _old(layer, "weight")]:
            whole[name] = layer.weight.detach()
        if layer._parameters.get("bias") is not None:
            whole |= {n: layer.bias.detach() for n, p in module.named_parameters() if p is layer._parameters["bias"]}
    if is_tied(module):
        tied = {n for n, p in module.named_parameters(remove_duplicate=False) if p is _old(layers[0], "weight")}
        kept = next(n for n, p in module.named_parameters() if p is _old(layers[0], "weight"))
        whole = {name: value for name, value in whole.items() if name == kept or name not in tied}
    module.save_pretrained(folder, state_dict=whole)
    model.tokenizer.save_pretrained(folder)


def _layers(model: LanguageModel, first: int) -> tuple[GrownEmbedding, GrownHead]:
    """The layers that grow, put in the places of the model's own unless they are there."""
    module: Any = model.module
    embedding, head = module.get_input_embeddings(), module.get_output_embeddings()
    if isinstance(embedding, GrownEmbedding) and isinstance(head, GrownHead):
        if embedding.first != first:
            raise ModelError(
                f"{model.name} has grown from token {embedding.first} on, and is asked for {first}; a chain has room "
                "for one method that grows the vocabulary."
            )
        return embedding, head
    if not isinstance(embedding, nn.Embedding) or not isinstance(head, nn.Linear):
        raise ModelError(
            f"{model.name} embeds by {type(embedding).__name__} and {type(head).__name__}, which cannot grow; in a "
            "chain, put what grows the vocabulary before soft prompts, and adapt no head."
        )
    if first > len(embedding.weight):
        raise ModelError(f"{model.name} has {len(embedding.weight)} rows for {first} tokens; it is no whole model.")
    new = nn.ParameterList()
    grown = GrownEmbedding(embedding, first, new)
    out = GrownHead(head, first, new if is_tied(module) else nn.ParameterList())
    module.set_input_embeddings(grown)
    module.set_output_embeddings(out)
    return grown, out


def _require_rows(layer: GrownEmbedding | GrownHead, number: int, growth: Growth, rows: Tensor | None) -> None:
    wide = (len(growth.tokens), _old(layer, "weight").shape[1])
    there = tuple(layer.new[number].shape) if number < len(layer.new) else wide
    if rows is None or tuple(rows.shape) != wide or there != wide:
        shape = None if rows is None else tuple(rows.shape)
        raise ModelError(f"{wide[0]} new tokens need rows of {wide}, and there are {shape} for {there}.")


def _parameter(rows: Tensor | None, old: Tensor) -> nn.Parameter:
    assert rows is not None
    return nn.Parameter(rows.detach().clone().to(old.device, old.dtype))


def _whole(old: Tensor, first: int, new: Sequence[Tensor]) -> Tensor:
    """Old rows with new ones from a place on."""
    end = first + sum(map(len, new))
    return torch.cat([old[:first], *new, old[end:]]) if new else old


def _old(layer: nn.Module, name: str) -> Tensor:
    found = layer._parameters[name]
    assert found is not None
    return found


def _without_padding(old: nn.Module) -> nn.Module:
    """The same kind of layer with no row of its own, in which no row is a padding's."""
    plain = object.__new__(type(old))
    vars(plain).update(vars(old))
    vars(plain).update({"_parameters": {"weight": None}, "padding_idx": None})
    return plain


def _config(model: LanguageModel) -> Any:
    module: Any = model.module
    return module.config.get_text_config(decoder=True)


Rule = Callable[[Tensor], Tensor]
"""From (V, D) old rows of an embedding to (K, D) new ones."""


def first_rows(model: LanguageModel, tokens: Sequence[str], rule: Rule) -> Growth:
    """New tokens with rows made of the model's present ones, for the input embedding and for a head of its own.

    Args:
        model: grown already, or not.
        tokens: that join.
        rule: makes new rows, (K, D), of old ones, (V, D), in full precision; asked twice where the head is not tied.
    """
    module: Any = model.module
    with torch.no_grad():
        made = [
            rule(layer.weight.to(torch.promote_types(layer.weight.dtype, torch.float32))).to(layer.weight.dtype)
            for layer in (module.get_input_embeddings(), module.get_output_embeddings())[: 2 - is_tied(module)]
        ]
    return Growth(tuple(tokens), made[0].cpu(), None if is_tied(module) else made[1].cpu())
