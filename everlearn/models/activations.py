"""States below the lowest layer that learns, computed once for each text and kept.

While the layers below stand still, what they make of a text is the same in each epoch, on each replay and in each row
of the matrix. Each text is read alone, whatever batch asks for it first: its states are then the same bits in a
straight run, in a resumed one, and after they were thrown away for want of room.

States lie under a hash of the weights that made them, so that they are never used with others.
"""

import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from everlearn.errors import ModelError
from everlearn.examples import Batch
from everlearn.models.adapted import adapted
from everlearn.models.dense import Dense
from everlearn.models.layers import Inputs, below, decoder_layers, drops, frozen_below, starting_from, states_after
from everlearn.weights import from_bytes, tensors_hash, to_bytes

FILE = "activations.sqlite"
OWNERS = ("torch", "transformers")
"""Packages whose layers know of no route."""


class Store:
    """A place for states, of bounded size.

    What no longer fits is not kept, and computed again when it is asked for; states of other weights go first. (To
    throw away the longest unused is no use: a pass over all texts would throw each away just before its turn.)

    Args:
        memory: bytes at most in memory.
        folder: where more are kept, in one SQLite file that several processes may use; None keeps none.
        disk: bytes at most there.
    """

    def __init__(self, memory: int, folder: Path | None = None, disk: int = 0) -> None:
        self.memory, self.disk = memory, disk if folder else 0
        self._kept: dict[str, dict[str, Tensor]] = {}
        self._used = 0
        self._file = _opened(folder) if folder and disk else None

    def __len__(self) -> int:
        """Texts whose states are in memory."""
        return sum(map(len, self._kept.values()))

    @property
    def used(self) -> int:
        """Bytes of states in memory."""
        return self._used

    def get(self, weights: str, text: str) -> Tensor | None:
        """(T, D) states of a text under weights, on the processor; None where they are not kept."""
        found = self._kept.get(weights, {}).get(text)
        if found is None and self._file:
            row = self._file.execute(
                "SELECT states FROM kept WHERE weights = ? AND text = ?", (weights, text)
            ).fetchone()
            found = from_bytes(row[0])["states"] if row else None
        return found

    def put(self, weights: str, text: str, states: Tensor) -> None:
        """Keep (T, D) states where there is room."""
        for other in [w for w in self._kept if w != weights]:
            if self._used + states.nbytes > self.memory:
                self._used -= sum(s.nbytes for s in self._kept.pop(other).values())
        if self._used + states.nbytes <= self.memory:
            self._kept.setdefault(weights, {})[text] = states
            self._used += states.nbytes
        elif self._file:
            self._write(self._file, weights, text, states)

    def _write(self, file: sqlite3.Connection, weights: str, text: str, states: Tensor) -> None:
        with file:
            (used,) = file.execute("SELECT coalesce(sum(length(states)), 0) FROM kept").fetchone()
            if used + states.nbytes > self.disk:
                file.execute("DELETE FROM kept WHERE weights != ?", (weights,))
                (used,) = file.execute("SELECT coalesce(sum(length(states)), 0) FROM kept").fetchone()
            if used + states.nbytes <= self.disk:
                row = (weights, text, to_bytes({"states": states}))
                file.execute("INSERT OR REPLACE INTO kept VALUES (?, ?, ?)", row)


class Lower:
    """The layers of a model below the lowest that learns, standing still.

    Args:
        module: a model that `keeps`; weights below must not change while this is in use.
        store: where states are kept.
    """

    def __init__(self, module: nn.Module, store: Store) -> None:
        self.module, self.store, self.count = module, store, frozen_below(module)
        layers = decoder_layers(module)
        self.drops = drops(layers[: self.count])
        above = {part for layer in layers[self.count :] for part in layer.modules()}
        settings = {name: one.settings() for name, one in adapted(module).items() if one not in above}
        frozen = tensors_hash(below(module, self.count))
        made_by = [frozen, str(module.config), str(sorted(settings.items())), self.count]
        self.weights = hashlib.sha256(repr(made_by).encode()).hexdigest()

    def spares(self, parts: Iterable[nn.Module]) -> bool:
        """Whether a pass from kept states leaves out any of the model's parts."""
        spared = {part for layer in decoder_layers(self.module)[: self.count] for part in layer.modules()}
        return not spared.isdisjoint(parts)

    @contextmanager
    def serving(self, batch: Batch, inputs: Callable[[Batch], Inputs], laid: Dense | None = None) -> Iterator[None]:
        """Inside, a pass over the batch starts from states that are kept, or are computed now.

        Args:
            batch: what the model reads.
            inputs: how a batch is put to the model.
            laid: how the pass has it.
        """
        if self.drops and self.module.training:
            yield
            return
        states = self._states(batch, inputs)
        with starting_from(self.module, self.count, laid.laid(states) if laid else states):
            yield

    def _states(self, batch: Batch, inputs: Callable[[Batch], Inputs]) -> Tensor:
        """(B, T, D) states of a batch; zeros at padding."""
        pieces = [(row, part, self._piece(alone, inputs)) for row, part, alone in _alone(batch)]
        like = pieces[0][2]
        device = next(self.module.parameters()).device
        states = torch.zeros(*batch.tokens.shape, like.shape[-1], dtype=like.dtype, device=device)
        for row, part, piece in pieces:
            states[row, part] = piece.to(device)
        return states

    def _piece(self, alone: Batch, inputs: Callable[[Batch], Inputs]) -> Tensor:
        read = torch.stack([alone.tokens[0], alone.positions[0], alone.segments[0]]).cpu().contiguous()
        text = hashlib.sha256(read.numpy().tobytes() + bytes([alone.shared])).hexdigest()
        found = self.store.get(self.weights, text)
        if found is None:
            found = self._compute(alone, inputs)
            self.store.put(self.weights, text, found)
        return found

    def _compute(self, alone: Batch, inputs: Callable[[Batch], Inputs]) -> Tensor:
        learning = self.module.training
        self.module.eval()
        with torch.inference_mode(False), torch.no_grad():  # else a later pass could not learn from them
            found = states_after(self.module, self.count, inputs(alone))[0].detach().cpu().contiguous()
        self.module.train(learning)
        return found


def keeps(module: nn.Module, routed: bool = False) -> bool:
    """Whether there are layers below that stand still, and a pass from their states says what a whole pass says.

    Args:
        module: a causal language model.
        routed: whether its passes are routed: then nothing below may listen to that, as adapters do, so that all parts
            there have to be torch's and transformers' own.
    """
    count, layers = frozen_below(module), decoder_layers(module)
    parts = [part for layer in layers[:count] for part in layer.modules()] if routed else []
    if not 0 < count < len(layers) or any(type(part).__module__.split(".")[0] not in OWNERS for part in parts):
        return False
    tokens = torch.arange(10, device=next(module.parameters()).device)[None] * 7 % 11
    inputs = {"input_ids": tokens, "position_ids": torch.arange(10, device=tokens.device)[None]}
    learning = module.training
    module.eval()
    with torch.no_grad():
        whole = module(**inputs, use_cache=False).logits
        with starting_from(module, count, states_after(module, count, inputs)):
            same = torch.equal(module(**inputs, use_cache=False).logits, whole)
    module.train(learning)
    return same


@contextmanager
def serving(
    lower: Lower | None, batch: Batch, inputs: Callable[[Batch], Inputs], laid: Dense | None = None
) -> Iterator[None]:
    """`Lower.serving`, or nothing where there is none."""
    with lower.serving(batch, inputs, laid) if lower else nullcontext():
        yield


def _alone(batch: Batch) -> Iterator[tuple[int, slice, Batch]]:
    """What of a batch depends on nothing else in it: a document, or a whole row where documents share a prompt."""
    segments = batch.segments.cpu()
    for row in range(len(segments)):
        length = int((segments[row] > 0).sum())
        sizes = torch.unique_consecutive(segments[row, :length], return_counts=True)[1].tolist()
        start = 0
        for size in [length] if batch.shared else sizes:
            part = slice(start, start + size)
            tokens, positions = batch.tokens[row, part][None], batch.positions[row, part][None]
            inside = batch.segments[row, part][None] if batch.shared else torch.ones_like(tokens)
            yield (
                row,
                part,
                Batch(tokens, positions, inside, torch.zeros_like(tokens, dtype=torch.bool), shared=batch.shared),
            )
            start += size


def _opened(folder: Path) -> sqlite3.Connection:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = sqlite3.connect(folder / FILE, timeout=60)
        file.execute("PRAGMA journal_mode = WAL")
        file.execute(
            "CREATE TABLE IF NOT EXISTS kept (weights TEXT, text TEXT, states BLOB, PRIMARY KEY (weights, text))"
        )
    except (OSError, sqlite3.Error) as error:
        raise ModelError(f"{folder / FILE} cannot keep states: {error}. Name another folder, or keep none.") from error
    return file
