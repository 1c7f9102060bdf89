"""Vocabularies that grew: the rows that several models have for the same new tokens, as one.

The base has no rows of tokens that joined later. So no model has changed them, and no rule for changes says anything of
them: a merged row of a new token is the models' mean by their weights, whatever the rule. Old rows are merged as if no
vocabulary had grown. A base may have rows beyond its tokens, for a round number; what new tokens took of these is new.
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from everlearn.combine import LIVE
from everlearn.config import parse_method
from everlearn.errors import ConfigError, ModelError
from everlearn.files import read_json, write_json
from everlearn.method import chain
from everlearn.methods.vocabulary import GrowVocabulary
from everlearn.models.load import FILES, load_tokenizer
from everlearn.models.vocabulary import add_tokens
from everlearn.registry.versions import Manifest
from everlearn.tensor_files import INDEX, Mean, Rows, Spans, Stored, extent, read_header
from everlearn.types import Memory
from everlearn.weights import unpack

NEW = ".new."
"""Between the name of a layer that grew, and the number of its growth."""


@dataclass(frozen=True)
class Vocabulary:
    """What the base has of it.

    Args:
        name: of the base.
        folder: where it lies.
        tensors: those with a row for each token, by name: the embedding, and a head of its own.
    """

    name: str
    folder: Path
    tensors: Mapping[str, Rows]

    @classmethod
    def of(cls, name: str, folder: Path, tensors: Mapping[str, Rows], settings: Mapping[str, Any]) -> "Vocabulary":
        """From all tensors of the base, and its configuration; what lies in a numbered layer is no embedding."""
        count = settings.get("vocab_size", settings.get("text_config", {}).get("vocab_size"))
        outside = {n: t for n, t in tensors.items() if not any(part.isdigit() for part in n.split("."))}
        return cls(name, folder, {n: t for n, t in outside.items() if t.shape[:1] == (count,)})

    @property
    def rows(self) -> int:
        """V, how many there are of each tensor; 0 where the configuration does not say."""
        return next((tensor.shape[0] for tensor in self.tensors.values()), 0)


@dataclass(frozen=True)
class Grown:
    """What a model has beyond the base's vocabulary.

    Args:
        first: the place of the first row that is not an old token's.
        tokens: the new ones, by number.
        rows: (N, D) from `first` on, by the tensor of the base that they join.
        folder: where a tokenizer lies that knows them; None for a version of a run.
    """

    first: int
    tokens: Mapping[int, str]
    rows: Mapping[str, Rows]
    folder: Path | None = None

    @property
    def end(self) -> int:
        """The place after the last of these rows."""
        return self.first + next(rows.shape[0] for rows in self.rows.values())

    def without(self, whole: Mapping[str, Rows], old: Vocabulary) -> dict[str, Rows]:
        """A model's tensors as if it had not grown: where its new rows lie among the base's, it has the base's."""
        return {n: self._old(t, old.tensors[n]) if n in self.rows else t for n, t in whole.items()}

    def _old(self, tensor: Rows, base: Rows) -> Rows:
        count = base.shape[0]
        end = min(self.end, count)
        return Spans(((tensor, 0, self.first), (base, self.first, end), (tensor, end, count)))

    def wider(self, tensors: Mapping[str, Stored]) -> dict[str, Stored]:
        """Tensors of the base with room for the new rows."""
        return {
            n: replace(t, shape=(max(t.shape[0], self.end), *t.shape[1:])) if n in self.rows else t
            for n, t in tensors.items()
        }

    def spliced(self, name: str, blocks: Iterable[Tensor], memory: int) -> Iterator[Tensor]:
        """A tensor's merged blocks of old rows with the new rows in their places, read within so many bytes."""
        if name not in self.rows:
            yield from blocks
            return
        rows, at, waiting = self.rows[name], 0, True
        count, columns = extent(rows.shape)
        size = max(1, memory // (LIVE * columns))
        for block in blocks:
            yield block[: max(0, self.first - at)]
            if waiting and self.first <= at + len(block):
                yield from (rows.rows(start, min(start + size, count)) for start in range(0, count, size))
                waiting = False
            yield block[max(0, self.end - at) :]
            at += len(block)

    def finish(self, folder: Path, old: Vocabulary) -> None:
        """Let a merged model's configuration and tokenizer know the new tokens.

        Args:
            folder: of the merged model, with the base's files.
            old: the base's vocabulary.
        """
        settings: dict[str, Any] = read_json(folder / "config.json")
        place = settings if "vocab_size" in settings else settings["text_config"]
        place["vocab_size"] = max(old.rows, self.end)
        write_json(folder / "config.json", settings)
        if self.folder:
            copy_small(self.folder, folder, ("config.json", "generation_config.json", "merge.json", INDEX))
        else:
            tokenizer: Any = load_tokenizer(old.name)
            add_tokens(tokenizer, old.name, min(self.tokens), list(self.tokens.values()))
            tokenizer.save_pretrained(folder)


def grown_folder(model: str, place: Path, whole: Mapping[str, Rows], old: Vocabulary) -> Grown | None:
    """What a model's directory has beyond the base's vocabulary; None where it has the base's.

    Args:
        model: its name.
        place: where it lies.
        whole: its tensors.
        old: the base's vocabulary.

    Raises:
        ModelError: if its tokenizer numbers old pieces otherwise, or it has new rows and nothing says what they are.
    """
    counts = {whole[name].shape[0] for name in old.tensors}
    mine, theirs = (folder / "tokenizer.json" for folder in (old.folder, place))
    if not mine.is_file() or not theirs.is_file():
        if old.rows and min(counts) > old.rows:
            lacking = theirs if mine.is_file() else mine
            raise ModelError(
                f"{model} has {min(counts)} rows of tokens, and {old.name} {old.rows}: it has another vocabulary, and "
                f"{lacking} is not there to say what the new ones are; save it, or resize the embeddings to the base's."
            )
        return None
    if mine.read_bytes() == theirs.read_bytes():
        return None
    known, found = _numbered(mine), _numbered(theirs)
    new = {i: token for i, token in sorted(found.items()) if i not in known and i < max(counts, default=0)}
    moved = any(known[i] != found[i] for i in known.keys() & found.keys()) or (new and max(known) > min(new))
    if moved or _vocab(mine) != _vocab(theirs):
        raise ModelError(f"{model} has another vocabulary than {old.name}: its tokenizer numbers pieces otherwise.")
    if not new or len(counts) > 1 or max(counts) < old.rows:
        return None
    _require_plain(model, old)
    first, end = min(*new, old.rows), max(counts) if max(counts) > old.rows else max(new) + 1
    rows = {name: Spans(((whole[name], first, end),)) for name in old.tensors}
    return Grown(first, new, rows, place)


def grown_version(
    model: str, manifest: Manifest, blobs: Path, stored: Mapping[str, Rows], old: Vocabulary
) -> Grown | None:
    """What a version of a run has beyond the base's vocabulary; None where no `GrowVocabulary` has added a token.

    Args:
        model: its name.
        manifest: the version's.
        blobs: where the run keeps files.
        stored: the version's weights; rows that never learned are taken from its memory.
        old: the base's vocabulary.

    Raises:
        ModelError: if rows of a head of its own are not among the weights.
    """
    memory = _memory(manifest, blobs)
    growths = [g for g in memory["growths"] if g["items"]] if memory else []
    if not growths:
        return None
    _require_plain(model, old)
    tokens = [item["token"] for growth in growths for item in growth["items"]]
    layers = sorted({name.split(NEW)[0] for name in stored if NEW in name})
    tied, rows = growths[0]["head"] is None, {}
    for tensor in old.tensors:
        own = layers if tied else [layer for layer in layers if f".{layer}.weight".endswith(f".{tensor}")]
        names = [f"{''.join(own[:1])}{NEW}{i}" for i in range(len(growths))]
        if not tied and not stored.keys() >= set(names):
            raise ModelError(
                f"{model}: new rows of {tensor} did not learn, and are not among its weights; learn them, with "
                "GrowVocabulary as the last of the methods that freeze."
            )
        parts = [stored.get(name, growth["rows"]) for name, growth in zip(names, growths, strict=True)]
        rows[tensor] = Spans(tuple((part, 0, part.shape[0]) for part in parts))
    return Grown(memory["first"], dict(enumerate(tokens, memory["first"])), rows)


def shared(models: Sequence[tuple[str, Grown | None]], weights: Sequence[float], old: Vocabulary) -> Grown | None:
    """The new rows of all models as one; None where none has any.

    Args:
        models: names, and what each has beyond the base's vocabulary.
        weights: one for each; none means 1 each.
        old: the base's vocabulary.

    Raises:
        ConfigError: if the weights give no mean.
        ModelError: if the models do not have the same new tokens, numbered alike.
    """
    grown = next(((name, found) for name, found in models if found), None)
    if grown is None:
        return None
    name, one = grown
    for other, found in models:
        if found is None or found.tokens != one.tokens or found.end != one.end:
            raise ModelError(
                f"{name} has {_said(one, old)}, and {other} {_said(found, old)}, beside {old.name}. Models are merged "
                f"whose vocabularies grew by the same tokens in the same order: grow {other} alike, or leave it out."
            )
    shares = tuple(weights) or (1.0,) * len(models)
    if min(shares) < 0 or not sum(shares):
        raise ConfigError(
            f"weights {', '.join(map(str, shares))}: rows of new tokens, which {name} has, are the models' mean by "
            "them; give none below 0, and one above it."
        )
    every = [found for _, found in models if found]
    rows = {n: Mean(tuple(g.rows[n] for g in every), shares, old.tensors[n].dtype) for n in one.rows}
    return replace(one, rows=rows, folder=next((g.folder for g in every if g.folder), None))


def copy_small(source: Path, target: Path, leaving: Sequence[str]) -> None:
    """Copy what lies in a model's directory beside its weights, but for files of these names."""
    for pattern in FILES:
        for small in sorted(source.glob(pattern)):
            if small.suffix != ".safetensors" and small.name not in leaving:
                shutil.copyfile(small, target / small.name)


def _require_plain(model: str, old: Vocabulary) -> None:
    if not old.tensors or any(len(tensor.shape) != 2 for tensor in old.tensors.values()):
        what = "has a bias for each token" if old.tensors else "no vocab_size in its config.json"
        raise ModelError(f"{model} has new tokens, and {old.name} {what}: their rows cannot be merged.")


def _memory(manifest: Manifest, blobs: Path) -> Any:
    """What the version's `GrowVocabulary` remembers, tensors unread; None where there is none."""
    text = manifest["about"]["method"]
    members = chain(parse_method(text)).methods if GrowVocabulary.__name__ in text else ()
    places = [i for i, member in enumerate(members) if isinstance(member, GrowVocabulary)]
    if not places:
        return None
    stored: dict[str, Any] = {e["name"]: read_header(blobs / e["blob"])[e["key"]] for e in manifest["memory"]}
    memory: Memory = unpack(json.loads((blobs / manifest["skeleton"]).read_text()), stored)
    return memory[places[0]]


def _vocab(tokenizer: Path) -> Any:
    return dict(read_json(tokenizer)).get("model", {}).get("vocab")


def _numbered(tokenizer: Path) -> dict[int, str]:
    """Pieces and added tokens by number; a vocabulary is an object, or a list of pieces with their scores."""
    vocab = _vocab(tokenizer) or {}
    listed = vocab.items() if isinstance(vocab, dict) else ((piece[0], i) for i, piece in enumerate(vocab))
    added = dict(read_json(tokenizer)).get("added_tokens", [])
    return {i: piece for piece, i in listed} | {entry["id"]: entry["content"] for entry in added}


def _said(grown: Grown | None, old: Vocabulary) -> str:
    if grown is None:
        return f"{old.rows} rows and no new token"
    shown = ", ".join(f"{token!r} as {i}" for i, token in list(grown.tokens.items())[:3])
    more = f" and {len(grown.tokens) - 3} more" if len(grown.tokens) > 3 else ""
    return f"{max(old.rows, grown.end)} rows and the new tokens {shown}{more}"
