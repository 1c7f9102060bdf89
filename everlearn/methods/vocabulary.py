"""New tokens and items: a vocabulary that grows by rows which begin warm."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor

from everlearn.data.catalogue import Item, likeness, read_catalogue
from everlearn.errors import ConfigError, DataError
from everlearn.method import Context, Method
from everlearn.models.language_model import LanguageModel
from everlearn.models.vocabulary import Growth, first_rows, grow_vocabulary
from everlearn.models.warm_starts import (
    covariance_noise,
    mean_rows,
    nearest,
    piece_means,
    random_rows,
    weighted_means,
)
from everlearn.types import Memory

Warm = Literal["mean", "pieces", "similar", "random"]


@dataclass(frozen=True)
class GrowVocabulary(Method):
    """Give the model tokens that it had not, with warm first rows, and train these rows alone (arXiv:1910.11856).

    The paper learns the embeddings of a new vocabulary for a frozen model, all of them and from random ones; here new
    tokens join the old ones, and begin at the old rows' mean with noise of their covariance (Hewitt 2021), at the mean
    of a description's pieces, or at a mean of similar items, as recommenders warm up titles without history.

    Tokens join when an experience begins: those of `tokens` and of items that name no experience with the first one
    that is learned, an item that names one with that. Old rows keep their parameter and their bits, and logits of old
    tokens are the same to the bit until something else learns; see `everlearn.models.vocabulary`. Texts are cut by the
    grown tokenizer from then on. Before that, as in the matrix's row of the base model, a token is read in pieces.

    Reconstruction: that a similar item is one of the same metadata, or the same words where it has none.

    In a chain the last of those that freeze decides: `LoRA(), GrowVocabulary(trains="all")` learns adapters and new
    rows, `GrowVocabulary(), LoRA()` the adapters alone.

    Memory: the items' texts, and the first rows, 4 K D bytes for K tokens in all, twice where the head is not tied.

    Args:
        tokens: that join first, such as ("<think>", "<tool>"); their description is their own text.
        catalogue: a JSONL file of items, see `everlearn.data.catalogue`; empty is none. It is read when an experience
            begins, and no more needed by versions.
        warm: how a row begins: at the "mean" of old rows; at the mean of the "pieces" of its description; at the mean
            of the most "similar" items that are tokens already, weighted by likeness, and where there are none like it
            at that of its pieces; or "random", N(0, 0.02^2), for comparison.
        noise: standard deviation that is added, as a share of the old rows' own (their whole covariance); Hewitt's is
            the square root of 1e-5. None is added to "random".
        neighbours: how many similar items at most.
        trains: "new" rows alone; the "last", that joined with this experience; or "all": new rows beside whatever
            would learn without the method, alone the whole model.
    """

    keeps: ClassVar[str] = "4 K D for K new tokens, and items as text"
    computes: ClassVar[str] = "logits of the new tokens"

    tokens: tuple[str, ...] = ()
    catalogue: str = ""
    warm: Warm = "pieces"
    noise: float = 0.00316
    neighbours: int = 8
    trains: Literal["new", "last", "all"] = "new"

    def __post_init__(self) -> None:
        """Refuse what there is not, and a growth by nothing."""
        if self.warm not in ("mean", "pieces", "similar", "random") or self.trains not in ("new", "last", "all"):
            raise ConfigError(f"{self}: warm is mean, pieces, similar or random, and trains new, last or all.")
        if self.noise < 0 or self.neighbours < 1 or not (self.tokens or self.catalogue):
            raise ConfigError(f"{self}: noise is 0 or more, neighbours 1 or more, and tokens or a catalogue are given.")

    def init(self, model: LanguageModel) -> Memory:
        """No growth; and how many tokens there are."""
        return {"first": len(model.tokenizer), "growths": []}

    def begin(self, memory: Memory, ctx: Context) -> Memory:
        """The tokens that join with this experience, and their first rows."""
        known = [Item(**row) for growth in memory["growths"] for row in growth["items"]]
        items = self._joining({item.token for item in known}, ctx)
        if not items:
            return memory | {"growths": [*memory["growths"], _kept((), None)]}
        # The same draws for both embeddings, so that input and output begin alike.
        rule = partial(self._rows, items, known, memory["first"], ctx)
        made = first_rows(ctx.model, [item.token for item in items], rule)
        return memory | {"growths": [*memory["growths"], _kept(items, made)]}

    def params(self, memory: Memory, model: LanguageModel) -> LanguageModel:
        """Grow, and free the new rows; freeze all else unless `trains` is "all"."""
        growths = [_growth(kept) for kept in memory["growths"] if kept["items"]]
        if self.trains != "all":
            model.module.requires_grad_(False)
        rows = grow_vocabulary(model, memory["first"], growths)
        if self.trains == "last":
            last = bool(memory["growths"] and memory["growths"][-1]["items"])
            newest = (len(growths) - 1, 2 * len(growths) - 1) if last else ()
            rows = [row for place, row in enumerate(rows) if place in newest]
        for row in rows:
            row.requires_grad_(True)
        return model

    def _joining(self, known: set[str], ctx: Context) -> list[Item]:
        """What becomes a token now."""
        first, name = ctx.seen == 0, ctx.experience.name
        named = [Item(token, description=token) for token in self.tokens] if first else []
        listed = read_catalogue(Path(self.catalogue)) if self.catalogue else []
        items = named + [item for item in listed if item.joins == name or (first and not item.joins)]
        words: Mapping[str, int] = ctx.model.tokenizer.get_vocab()
        fresh = [item for item in items if item.token not in known]
        if taken := [item.token for item in fresh if item.token in words]:
            raise DataError(f"{self}: {taken[0]} ({len(taken)} in all) is a token already; give new ones.")
        return fresh

    def _rows(self, items: Sequence[Item], known: Sequence[Item], first: int, ctx: Context, old: Tensor) -> Tensor:
        """(K, D) first rows from (V, D) present ones, of which the tokenizer's come first."""
        rng, old = ctx.rng("rows"), old[: first + len(known)]
        if self.warm == "random":
            return random_rows(old, len(items), rng)
        if self.warm == "mean":
            rows = mean_rows(old, len(items))
        else:
            rows = piece_means(old, [_pieces(ctx.model, item) for item in items])
        if self.warm == "similar" and known:
            near = nearest(likeness(items, known), self.neighbours).to(old.device)
            some = near.sum(1) > 0
            rows[some] = weighted_means(old[first:], near[some])
        return rows + covariance_noise(old, len(items), self.noise, rng) if self.noise else rows


def _pieces(model: LanguageModel, item: Item) -> list[int]:
    """The numbers of an item's description, or of its token where it has none, in the present vocabulary."""
    found: Any = model.tokenizer(item.description or item.token, add_special_tokens=False, verbose=False)
    return list(found.input_ids)


def _kept(items: Sequence[Item], growth: Growth | None) -> dict[str, Any]:
    rows = None if growth is None else growth.rows
    head = None if growth is None else growth.head
    return {"items": [item.row() for item in items], "rows": rows, "head": head}


def _growth(kept: Mapping[str, Any]) -> Growth:
    return Growth(tuple(row["token"] for row in kept["items"]), kept["rows"], kept["head"])
