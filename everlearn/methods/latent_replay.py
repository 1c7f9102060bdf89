"""Latent replay: states at a cut in the network are remembered in place of text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from everlearn.data.buffers import balanced_keep, reservoir_keep, turns
from everlearn.data.packing import rows_alone
from everlearn.data.sequences import each
from everlearn.errors import ConfigError, MethodError
from everlearn.examples import Batch, Example
from everlearn.method import Context, Method
from everlearn.models.language_model import LanguageModel
from everlearn.objectives.next_token import NextToken
from everlearn.types import Memory

Selection = Literal["reservoir", "balanced"]
Precision = Literal["bfloat16", "float32", "own"]


@dataclass(frozen=True)
class LatentReplay(Method):
    """Replay what the lower layers made of stored examples, from there up (latent replay, arXiv:1912.01100, sec. 3).

    Adds to each step's loss that of stored examples, whose forward pass begins at the cut: the layers below cost
    nothing for them, and get no gradient from them. Behind `Freeze(below=...)` at the same cut this is replay of the
    examples themselves, cheaper; behind `Slow`, states age as the layers below move, which `age` and `refresh` bound.

    Differs from the paper: the share of stored examples is added as a term, weighed by their number over that of the
    new ones, and not concatenated at the cut; the layers are those of a transformer, so an example is a sequence of
    states. For next-token objectives. Privacy: no text is kept (unless `refresh`), but the tokens of the targets are,
    and much of a text can be had back from states near the input.

    Extra compute: passes above the cut for the stored examples. Memory: for an example of T tokens, of which S are
    targets, 2 T D + 4 S + T bytes in bfloat16, for at most `capacity` examples.

    Args:
        below: number of layers below the cut, one at least.
        fraction: share of stored examples among all examples learned from, in [0, 1).
        capacity: most examples kept in all.
        selection: as of `Replay`.
        precision: of the stored states; "own" is what the model computes in.
        age: experiences after which states are forgotten; None keeps them.
        refresh: whether texts are kept as well, and states made anew when an experience begins.
    """

    keeps: ClassVar[str] = "capacity states of 2 T D, in all"
    computes: ClassVar[str] = "passes above the cut for stored rows"
    reads_batch: ClassVar[bool] = False

    below: int = 1
    fraction: float = 0.1
    capacity: int = 256
    selection: Selection = "balanced"
    precision: Precision = "bfloat16"
    age: int | None = None
    refresh: bool = False

    def __post_init__(self) -> None:
        """Refuse numbers without a meaning."""
        if not 0 <= self.fraction < 1 or min(self.below, self.capacity, self.age or 1) < 1:
            raise ConfigError(f"{self}: fraction is in [0, 1); below, capacity and age are 1 or more.")
        if self.selection not in ("reservoir", "balanced") or self.precision not in ("bfloat16", "float32", "own"):
            raise ConfigError(f"{self}: selection is reservoir or balanced, precision bfloat16, float32 or own.")

    def init(self, model: LanguageModel) -> Memory:
        """An empty buffer."""
        return {"kept": [], "seen": 0}

    def begin(self, memory: Memory, ctx: Context) -> Memory:
        """The buffer without what is too old, made anew by the last version where that is asked for."""
        kept = [k for k in memory["kept"] if self.age is None or ctx.seen - k["born"] <= self.age]
        if self.refresh and kept:
            rows = [k["row"] for k in kept]
            made = self._made([Example.from_row(row) for row in rows], ctx)
            kept = [old | new | {"origin": old["origin"]} for old, new in zip(kept, made, strict=True)]
        return memory | {"kept": kept}

    def loss(self, memory: Memory, batch: Batch, ctx: Context) -> Tensor | float:
        """The mean loss of stored examples from the cut up, weighed by their number over that of the new ones."""
        each_step = self.fraction / (1 - self.fraction) * ctx.plan.batch_size
        count = min(int((ctx.step + 1) * each_step) - int(ctx.step * each_step), len(memory["kept"]))
        if not count:
            return 0.0
        _require_plain(self, ctx)
        drawn = turns(len(memory["kept"]), count, ctx.rng("replay"))
        stored, states = _batch([memory["kept"][i] for i in drawn], ctx.model.device)
        with ctx.model.starting(self.below, states):
            return -count / ctx.plan.batch_size * ctx.model.token_logprobs(stored).mean()

    def end(self, memory: Memory, ctx: Context) -> Memory:
        """The buffer after the experience's own examples were offered to it."""
        kept, name, offered, rng = memory["kept"], ctx.experience.name, len(ctx.experience.train), ctx.rng("keep")
        if self.selection == "reservoir":
            slots = reservoir_keep(len(kept), memory["seen"], offered, self.capacity, rng)
        else:
            slots = balanced_keep([k["origin"] for k in kept], name, offered, self.capacity, rng)
        new = iter(self._made(list(each(ctx.experience.train, [i for old, i in slots if not old])), ctx))
        return {"kept": [kept[i] if old else next(new) for old, i in slots], "seen": memory["seen"] + offered}

    def _made(self, examples: Sequence[Example], ctx: Context) -> list[dict[str, object]]:
        """What is kept of examples, in their order."""
        _require_plain(self, ctx)
        found: dict[int, dict[str, object]] = {}
        documents = [(ctx.model.encode(e), e) for e in examples]
        for group, batch in rows_alone(documents, ctx.plan.length, ctx.plan.tokens):
            states = ctx.model.states(batch, self.below).cpu()
            for row, index in enumerate(group):
                length = int((batch.segments[row] > 0).sum())
                where = batch.supervised[row, :length]
                mine = states[row, :length].to(states.dtype if self.precision == "own" else DTYPES[self.precision])
                about = {"origin": ctx.experience.name, "born": ctx.seen}
                text = {"row": examples[index].row()} if self.refresh else {}
                targets = batch.tokens[row, :length][where].int()
                found[index] = {"states": mine.clone(), "where": where.clone(), "targets": targets} | about | text
                found[index]["like"] = states.new_empty(0)  # of the dtype that the layer above the cut reads
        return [found[i] for i in range(len(examples))]


DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def _batch(kept: Sequence[dict[str, Tensor]], device: torch.device) -> tuple[Batch, Tensor]:
    """Stored examples as padded rows, in which only targets have their token; and their (B, T, D) states."""
    where = pad_sequence([k["where"] for k in kept], batch_first=True)
    segments = pad_sequence([torch.ones(len(k["where"]), dtype=torch.long) for k in kept], batch_first=True)
    tokens = torch.zeros_like(segments)
    tokens[where] = torch.cat([k["targets"] for k in kept]).long()
    positions = torch.arange(segments.shape[1]).expand_as(segments)
    states = pad_sequence([k["states"].to(k["like"].dtype) for k in kept], batch_first=True)
    return Batch(tokens, positions, segments, where), states.to(device)


def _require_plain(method: LatentReplay, ctx: Context) -> None:
    if not isinstance(ctx.experience.objective, NextToken):
        kind = type(ctx.experience.objective).__name__
        raise MethodError(f"{method} replays next-token losses alone, and {ctx.experience.name} learns by {kind}.")
    if ctx.model.router is not None:
        raise MethodError(f"{method}: states cannot begin above what routes prompts; leave out one of the two methods.")
