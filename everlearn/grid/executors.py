"""Where the cells of a grid are run: in this process, or in worker processes that may die.

A cell can be stopped or killed at any moment and goes on from its checkpoint, so that a worker needs no care: one that
dies has its cell given to another.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Protocol

import torch

from everlearn.errors import ConfigError, Interrupted
from everlearn.grid.cells import Cell, attempted
from everlearn.types import Progress

RETRIES = 2
"""How often a cell whose worker died is given to another."""
GRACE = 20.0
"""Seconds that workers get to keep what they have done when the grid is stopped."""
TOLD = 0.5
"""Least seconds between two reports of a worker."""
QUOTED = 2000
"""Characters of a dead worker's log that are shown."""


@dataclass(frozen=True)
class Ended:
    """How a cell ended.

    Args:
        cell: which.
        seconds: since it was begun, all tries together.
        failure: what went wrong; empty where nothing did.
    """

    cell: Cell
    seconds: float
    failure: str = ""


class Executor(Protocol):
    """Who runs cells. Frozen data."""

    def each(self, cells: Sequence[Cell], progress: Progress) -> Generator[Ended, None, None]:
        """Run the cells in any order, and give each as it ends; closing the generator stops those under way."""


@dataclass(frozen=True)
class InProcess:
    """One cell after another, in this process."""

    def each(self, cells: Sequence[Cell], progress: Progress) -> Generator[Ended, None, None]:
        """Run the cells in order."""
        for cell in cells:
            started = time.monotonic()
            failure = attempted(cell, progress)
            yield Ended(cell, time.monotonic() - started, failure)


@dataclass(frozen=True)
class Processes:
    """Several cells at once, in worker processes of this machine.

    A worker that dies, of its own error or killed from outside, has its cell given to a new one, at most twice; then
    the cell is reported with the end of its log, and the others go on. What a cell prints goes to its log. A script
    that uses this needs `if __name__ == "__main__":`, as with every `multiprocessing` of the "spawn" kind.

    Args:
        workers: processes at a time.
        threads: of each; None divides those of this process among them.
    """

    workers: int = 2
    threads: int | None = None

    def __post_init__(self) -> None:
        """Refuse fewer than one."""
        if self.workers < 1 or (self.threads or 1) < 1:
            raise ConfigError(f"{self}: workers and threads are 1 or more.")

    def each(self, cells: Sequence[Cell], progress: Progress) -> Generator[Ended, None, None]:
        """Run the cells, each on the next free worker."""
        threads = self.threads or max(1, torch.get_num_threads() // self.workers)
        crew = _Crew(cells, progress, threads)
        try:
            yield from crew.each(self.workers)
        finally:
            crew.dismiss()


@dataclass
class _Worker:
    """A process at work on a cell, and our end of the pipe to it."""

    process: BaseProcess
    pipe: "Connection[object, object]"
    number: int
    ready: bool = False


@dataclass
class _Crew:
    """Workers and the cells that wait for one: the mutable inside of `Processes`."""

    cells: Sequence[Cell]
    progress: Progress
    threads: int
    workers: list[_Worker] = field(default_factory=list)
    deaths: Counter[int] = field(default_factory=Counter)
    begun: dict[int, float] = field(default_factory=dict)

    def each(self, count: int) -> Iterator[Ended]:
        self.waiting = deque(range(len(self.cells)))
        while self.waiting or self.workers:
            while self.waiting and len(self.workers) < count:
                self._hire()
            heard = set(map(id, wait([worker.pipe for worker in self.workers])))
            for worker in [w for w in self.workers if id(w.pipe) in heard]:
                yield from self._listen(worker)

    def dismiss(self) -> None:
        """Ask the workers to keep what they have, and end those that do not within the grace."""
        for worker in self.workers:
            if worker.ready and worker.process.pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(worker.process.pid, signal.SIGINT)
            else:
                worker.process.kill()
        end = time.monotonic() + GRACE
        for worker in self.workers:
            worker.process.join(max(0.0, end - time.monotonic()))
            worker.process.kill()
            worker.process.join()
        self.workers = []

    def _hire(self) -> None:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        worker = _Worker(
            context.Process(target=work, args=(theirs, self.cells, self.threads), daemon=True),
            ours,
            self.waiting.popleft(),
        )
        with _uninterrupted():
            worker.process.start()
        theirs.close()  # else the pipe would not end with the worker
        self.workers.append(worker)
        self._give(worker, worker.number)

    def _give(self, worker: _Worker, number: int) -> None:
        worker.number = number
        self.begun.setdefault(number, time.monotonic())
        with suppress(OSError):  # it has died: the end of its pipe is heard next
            worker.pipe.send(number)

    def _listen(self, worker: _Worker) -> Iterator[Ended]:
        try:
            message = worker.pipe.recv()
        except (EOFError, OSError):
            yield from self._bury(worker)
            return
        if message is None:
            worker.ready = True
        elif isinstance(message, tuple):
            self.progress.update(*message)
        else:
            yield self._ended(worker.number, str(message))
            if self.waiting:
                self._give(worker, self.waiting.popleft())
            else:
                self._retire(worker)

    def _bury(self, worker: _Worker) -> Iterator[Ended]:
        """A worker has died: its cell is given to another, or has had its tries."""
        self._retire(worker)
        number, cell, code = worker.number, self.cells[worker.number], worker.process.exitcode
        self.deaths[number] += 1
        how = f"was killed by {signal.Signals(-code).name}" if code and code < 0 else f"ended with exit code {code}"
        if self.deaths[number] <= RETRIES:
            self.waiting.appendleft(number)
            self.progress.update(cell.title, 0, len(cell.stream) + 1, f"its worker {how}; given to another")
            return
        end = cell.log.read_text(errors="replace")[-QUOTED:].strip() if cell.log.exists() else ""
        yield self._ended(number, f"its worker died {1 + RETRIES} times, and at last {how}; {cell.log} ends:\n{end}")

    def _retire(self, worker: _Worker) -> None:
        self.workers.remove(worker)
        worker.pipe.close()
        worker.process.join()

    def _ended(self, number: int, failure: str) -> Ended:
        return Ended(self.cells[number], time.monotonic() - self.begun[number], failure)


def work(pipe: "Connection[object, object]", cells: Sequence[Cell], threads: int) -> None:
    """A worker's life: say that it is ready, learn the cells whose numbers come, and answer each with its failure.

    Args:
        pipe: to who gives the work; its end ends the worker.
        cells: all of the grid.
        threads: that it may use.
    """
    # Ctrl-C in a terminal reaches a whole process group; only who gives the work decides when a worker stops.
    os.setpgrp()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(threads)
    with suppress(EOFError, BrokenPipeError, KeyboardInterrupt, Interrupted):  # who gives the work may die first
        pipe.send(None)
        while True:
            number = pipe.recv()
            assert isinstance(number, int)
            with logged(cells[number].log):
                failure = attempted(cells[number], _Sent(pipe))
            pipe.send(failure)


class _Sent:
    """Progress that is sent down a pipe, now and then."""

    def __init__(self, pipe: "Connection[object, object]") -> None:
        self._pipe, self._last = pipe, 0.0

    def update(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Send it, unless something was sent just now."""
        if time.monotonic() - self._last >= TOLD:
            self._pipe.send((stage, done, total, note))
            self._last = time.monotonic()


@contextmanager
def logged(path: Path) -> Iterator[None]:
    """Let what is printed, by Python or below it, go to the end of a file.

    Args:
        path: of the file; it and its folder are made where missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = [os.dup(1), os.dup(2)]
    with path.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, old in enumerate(kept, start=1):
            os.dup2(old, number)
            os.close(old)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C ignored here, and in a process started here until it decides otherwise."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, old)
