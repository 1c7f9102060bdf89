"""What a model that stands still says of each token of a text, computed once and kept on disk.

Numbers lie under a hash of the model's weights, their precision and the token ids, in one SQLite file that several
processes may read and write at once: a reader finds a text's numbers whole or not at all. Each document is read alone,
whatever batch asks for it first, so that what is kept equals a fresh pass bit for bit. A token takes 4 bytes for each
kind of number (8 under an fp64 model), a document about 150 more.
"""

import hashlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from everlearn.errors import ModelError
from everlearn.examples import Batch
from everlearn.files import cache_folder
from everlearn.models.language_model import LanguageModel
from everlearn.models.load import identity
from everlearn.models.parallel import launched
from everlearn.weights import from_bytes, to_bytes

FILE = "token_losses.sqlite"
Kind = Literal["loss", "entropy"]
"""Of each token: its loss, or the entropy of the distribution that it was drawn from; in nats."""


class TokenLosses:
    """A reference, and what it says of texts. It is opened where something is not kept yet, and not before.

    Args:
        name: of the reference: a hub name, a directory, a GGUF file, or "embedded".
        beside: the live model, whose tokens are read; the reference computes where it does, in its precision.
        folder: where the file lies; None takes this package's cache.

    Raises:
        ModelError: if the reference cannot be had, or the file cannot be used.
    """

    def __init__(self, name: str, beside: LanguageModel, folder: Path | None = None) -> None:
        self.name, self.beside = name, beside
        self.dtype = str(next(beside.module.parameters()).dtype).removeprefix("torch.")
        self.weights = f"{identity(name)} {self.dtype}"
        self._path = (folder or cache_folder() / "token_losses") / FILE
        self._file = _opened(self._path)
        self._model: LanguageModel | None = None

    def close(self) -> None:
        """Let the file and the reference go."""
        self._file.close()
        self._model = None

    def of(self, batches: Sequence[Batch], kind: Kind) -> list[Tensor]:
        """The numbers of each batch's supervised tokens in row-major order, (N,), on the CPU.

        Processes that were launched together all call this with the same batches; each computes a part of what is not
        kept, and the main one writes it.

        Raises:
            ModelError: if the reference has another vocabulary than the live model.
        """
        here = launched()
        texts = {_key(batch.tokens[row, part]): batch.tokens[row, part] for batch, row, part in _documents(batches)}
        kept = here.by_main(self._read, kind, list(texts))
        missing = [key for key in texts if key not in kept]
        mine = {key: self._computed(texts[key], kind) for key in missing[here.index :: here.count]}
        new = {key: numbers for part in here.gather(mine) for key, numbers in part.items()}
        here.by_main(self._write, kind, new)
        return _laid_out(batches, {**kept, **new})

    def _computed(self, tokens: Tensor, kind: Kind) -> Tensor:
        """(T,) of one document; 0 at its first token, which nothing is said of."""
        model, positions = self._reference(), torch.arange(len(tokens))[None]
        alone = Batch(tokens[None], positions, torch.ones_like(positions), positions > 0)
        with torch.no_grad():
            found = -model.token_logprobs(alone) if kind == "loss" else model.token_entropies(alone)
        return torch.cat([found.new_zeros(1), found]).cpu()

    def _reference(self) -> LanguageModel:
        if self._model is None:
            self._model = LanguageModel.open(self.name, self.dtype, str(self.beside.device))
            if self._model.tokenizer.get_vocab() != self.beside.tokenizer.get_vocab():
                raise ModelError(
                    f"the reference {self.name} has other tokens than {self.beside.name}; take one that was trained "
                    "from the same base, or that shares its tokenizer."
                )
        return self._model

    def _read(self, kind: Kind, keys: Sequence[str]) -> dict[str, Tensor]:
        found = {}
        for key in keys:
            asked = (self.weights, kind, key)
            row = self._file.execute(
                "SELECT numbers FROM kept WHERE weights = ? AND kind = ? AND text = ?", asked
            ).fetchone()
            if row:
                found[key] = from_bytes(row[0])["numbers"]
        return found

    def _write(self, kind: Kind, new: Mapping[str, Tensor]) -> None:
        rows = [(self.weights, kind, key, to_bytes({"numbers": numbers})) for key, numbers in new.items()]
        try:
            with self._file:
                self._file.executemany("INSERT OR IGNORE INTO kept VALUES (?, ?, ?, ?)", rows)
        except sqlite3.Error as error:
            raise ModelError(
                f"{self._path} takes no more token losses: {error}; make room, or name a folder."
            ) from error


def _opened(path: Path) -> sqlite3.Connection:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = sqlite3.connect(path, timeout=60)
        file.execute("PRAGMA journal_mode = WAL")
        file.execute(
            "CREATE TABLE IF NOT EXISTS kept (weights TEXT, kind TEXT, text TEXT, numbers BLOB, "
            "PRIMARY KEY (weights, kind, text))"
        )
    except (OSError, sqlite3.Error) as error:
        raise ModelError(f"{path} cannot keep token losses: {error}. Name another folder.") from error
    return file


def _key(tokens: Tensor) -> str:
    return hashlib.sha256(tokens.contiguous().numpy().tobytes()).hexdigest()


def _documents(batches: Sequence[Batch]) -> Iterator[tuple[Batch, int, slice]]:
    """The batch, row and place of each document."""
    for batch in batches:
        for row, segments in enumerate(batch.segments):
            sizes = torch.unique_consecutive(segments[segments > 0], return_counts=True)[1].tolist()
            start = 0
            for size in sizes:
                yield batch, row, slice(start, start + size)
                start += size


def _laid_out(batches: Sequence[Batch], numbers: Mapping[str, Tensor]) -> list[Tensor]:
    """The numbers of texts at the supervised tokens of batches."""
    grids = {id(batch): torch.zeros(batch.tokens.shape, dtype=torch.float64) for batch in batches}
    for batch, row, part in _documents(batches):
        grids[id(batch)][row, part] = numbers[_key(batch.tokens[row, part])].double()
    return [grids[id(batch)][batch.supervised] for batch in batches]
