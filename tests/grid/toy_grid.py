"""A grid on the toy for the tests of grids, and a method that no worker survives."""

import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path

from everlearn.fold import Settings
from everlearn.grid.compare import Grid
from everlearn.learner import Learner
from everlearn.method import Context, Method, chain
from everlearn.methods.adapters import LoRA
from everlearn.methods.replay import Replay
from everlearn.models.optim import AdamW, Recipe
from everlearn.testing.toys import toy_folder, toy_stream
from everlearn.types import Memory, Stream


@dataclass(frozen=True)
class Deadly(Method):
    """Kills its process when the second experience begins, as a machine does that has no memory left.

    Args:
        marker: a file that says that it has done so, and shall not again; empty kills whenever it is asked.
    """

    marker: str = ""

    def begin(self, memory: Memory, ctx: Context) -> Memory:
        """Die, or do nothing."""
        if ctx.seen == 1 and not (self.marker and Path(self.marker).exists()):
            print("about to die", flush=True)
            if self.marker:
                Path(self.marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return memory


@dataclass
class Heard:
    """Progress that remembers what it was told."""

    told: list[tuple[str, int, int, str]]

    def update(self, stage: str, done: int, total: int, note: str = "") -> None:
        self.told.append((stage, done, total, note))


def two_experiences() -> Stream:
    stream = toy_stream()
    return replace(stream, experiences=stream.experiences[:2])


def toy_grid(model: Path, epochs: int = 2, seeds: tuple[int, ...] = (0, 1)) -> Grid:
    """Plain and replayed LoRA on the toy, which is made where it is not there yet."""
    recipe = Recipe(AdamW(learning_rate=2e-2), batch_size=4, length=64, epochs=epochs)
    learner = Learner(str(model if model.exists() else toy_folder(model)), recipe=recipe, dtype="float32")
    methods: dict[str, Method] = {"plain": chain(LoRA(rank=4)), "replay": chain(LoRA(rank=4), Replay(fraction=0.3))}
    return Grid(two_experiences(), methods, seeds, learner, Settings(suite=(), checkpoint_every=0.0))
