"""Unfinished work inside an experience: kept by the main process, gone on with by all."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everlearn.errors import ConfigError
from everlearn.files import atomic_folder, find_folder, read_json, write_json
from everlearn.models.parallel import Processes
from everlearn.types import Memory
from everlearn.weights import Tensors, load_tensors, pack, save_tensors, unpack


@dataclass
class Position:
    """Where inside an experience the work is.

    Args:
        epoch: passes over the examples that are done.
        step: steps of this pass that are done.
        total: steps of all passes.
        progress: the fraction of this pass that is done.
        best: the lowest validation loss, or the highest score with its sign turned.
        stale: validations since then.
        fallen: whether one was worse than the best by more than the recipe's margin.
    """

    epoch: int = 0
    step: int = 0
    total: int = 0
    progress: float = 0.0
    best: float = float("inf")
    stale: int = 0
    fallen: bool = False

    def judge(self, cost: float, margin: float | None) -> bool:
        """Count a validation; whether none was better.

        Args:
            cost: what it found; lower is better.
            margin: the recipe's.
        """
        kept = cost <= self.best
        self.fallen = margin is not None and cost > self.best + margin
        self.stale = 0 if cost < self.best else self.stale + 1
        self.best = min(self.best, cost)
        return kept


def keep(place: Path, base: int, work: Memory, processes: Processes) -> None:
    """Keep work in a folder, in place of what was there; sharded tensors are gathered.

    Args:
        place: the folder.
        base: tells this experience of this run from others.
        work: plain data.
        processes: all of them call this function with their own part of the work.
    """
    skeleton, tensors = pack(work)
    about = {"base": base, "work": skeleton, "sharding": processes.sharding, "sharded": processes.sharded(tensors)}
    processes.by_main(_write, place, about, processes.whole(tensors))


def find(place: Path | None, base: int, processes: Processes) -> Memory:
    """The work that was kept, spread over the processes as it was; None where there is none of this experience.

    Raises:
        ConfigError: if it was kept under another sharding, or if some processes find it and others do not.
    """
    folder = find_folder(place) if place else None
    about = read_json(folder / "work.json") if folder else {}
    found = processes.gather(about.get("base") == base)
    if any(found) and not all(found):
        raise ConfigError(f"{place} is there for some processes only; choose a folder that all machines share.")
    if folder is None or not all(found):
        return None
    if about["sharding"] != processes.sharding:
        raise ConfigError(
            f"{folder} was kept with parameters {about['sharding']}, and this launch has them {processes.sharding}; "
            "launch as before, or delete that folder to begin the experience anew."
        )
    tensors = load_tensors(folder / "work.safetensors")
    tensors |= processes.spread({name: tensors[name] for name in about["sharded"]})
    return unpack(about["work"], tensors)


def _write(place: Path, about: dict[str, Any], tensors: Tensors) -> None:
    with atomic_folder(place) as folder:
        save_tensors(folder / "work.safetensors", tensors)
        write_json(folder / "work.json", about)
