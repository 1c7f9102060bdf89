"""The cells of a grid on a Ray cluster; needs the extra `ray`."""

import time
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import ray  # type: ignore[import-not-found, unused-ignore]
import torch

from everlearn.errors import ConfigError
from everlearn.grid.cells import Cell, attempted
from everlearn.grid.executors import GRACE, RETRIES, Ended, logged
from everlearn.types import Progress, Silent

LOOK = 2.0
"""Seconds between two looks at which cells have begun."""


@dataclass(frozen=True)
class RayCluster:
    """Several cells at once, each a Ray task; one whose worker or machine is lost is given to another by Ray.

    The grid's folder has to be on a file system that all machines share, and everlearn installed on each of them.

    Args:
        address: of a running cluster, "auto" for the one that this machine belongs to; "local" starts one here.
        workers: cells at a time on a cluster that is started here; None takes as many as the cores allow.
        cpus: cores of a cell, and its threads.
        gpus: of a cell; a fraction shares one.
    """

    address: str = "local"
    workers: int | None = None
    cpus: int = 1
    gpus: float = 0.0

    def __post_init__(self) -> None:
        """Refuse fewer than one."""
        if self.cpus < 1 or self.gpus < 0 or (self.workers is not None and self.workers < 1):
            raise ConfigError(f"{self}: workers and cpus are 1 or more, gpus 0 or more.")

    def each(self, cells: Sequence[Cell], progress: Progress) -> Generator[Ended, None, None]:
        """Run the cells as Ray has room for them.

        Raises:
            ConfigError: if there is no cluster at the address.
        """
        ours = not ray.is_initialized()
        if ours:
            self._connect()
        waiting: dict[Any, Cell] = {}
        try:
            everything = ray.put(tuple(cells))
            options = {"num_cpus": self.cpus, "num_gpus": self.gpus, "max_retries": RETRIES}
            task = ray.remote(_learn).options(**options)
            waiting |= {task.remote(everything, number, self.cpus): cell for number, cell in enumerate(cells)}
            while waiting:
                ready, _ = ray.wait(list(waiting), timeout=LOOK)
                for reference in ready:
                    yield _ended(waiting.pop(reference), reference)
                _show(waiting.values(), progress)
        finally:
            _stop(list(waiting))
            if ours:
                ray.shutdown()

    def _connect(self) -> None:
        quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "warning"}
        try:
            if self.address == "local":
                cores = None if self.workers is None else self.workers * self.cpus
                ray.init("local", num_cpus=cores, **quiet)
            else:
                ray.init(self.address, log_to_driver=False, logging_level="warning")
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise ConfigError(
                f"there is no Ray cluster at {self.address!r} ({error}); start one with `ray start --head`, "
                "or give the address 'local' to have one started here."
            ) from error


def _learn(cells: Sequence[Cell], number: int, threads: int) -> tuple[str, float]:
    """On a worker: the cell's failure, if any, and its seconds."""
    started = time.monotonic()
    torch.set_num_threads(threads)
    with logged(cells[number].log):
        return attempted(cells[number], Silent()), time.monotonic() - started


def _ended(cell: Cell, reference: Any) -> Ended:
    try:
        failure, seconds = ray.get(reference)
    except ray.exceptions.RayError as error:
        lost = isinstance(error, ray.exceptions.WorkerCrashedError | ray.exceptions.NodeDiedError)
        how = f"its worker was lost {1 + RETRIES} times" if lost else str(error)
        return Ended(cell, 0.0, f"{how}; see {cell.log}")
    return Ended(cell, seconds, failure)


def _show(cells: Iterable[Cell], progress: Progress) -> None:
    """Tell of the cells that have begun; what they do inside, the cluster does not say."""
    for cell in cells:
        if cell.has_begun():
            progress.update(cell.title, 0, len(cell.stream) + 1, "under way on the cluster")


def _stop(references: list[Any]) -> None:
    """Ask the tasks under way to keep what they have, and those not begun not to begin."""
    for reference in references:
        ray.cancel(reference)
    if references:
        ray.wait(references, num_returns=len(references), timeout=GRACE)
