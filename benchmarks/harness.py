"""How things are timed: side by side in one run, interleaved, on one thread, by CPU time.

A round runs each side once; the order turns round from round to round, so that a machine that slows down slows both.
The ratio is taken inside each round and its median is reported, with the least and the largest. One round before the
first is thrown away: it loads, allocates and compiles.
"""

import importlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

ROUNDS = 3


class NotThereError(Exception):
    """A row cannot be measured yet, or not here; the message is the reason that the table gives."""


class DifferentError(Exception):
    """The two sides did not do the same, so that their times say nothing."""


@dataclass(frozen=True)
class Sample:
    """One side, run once.

    Args:
        seconds: what it took.
        value: what it did, so that the sides can be compared.
    """

    seconds: float
    value: Any = None


Side = Callable[[], Sample]


@dataclass(frozen=True)
class Spread:
    """Several measurements of one number."""

    values: tuple[float, ...]

    @property
    def middle(self) -> float:
        """The median."""
        return median(self.values)

    def show(self, digits: int = 2) -> str:
        """The median, and the least and the largest where there are several."""
        if len(self.values) == 1:
            return f"{self.middle:.{digits}f}"
        return f"{self.middle:.{digits}f} ({min(self.values):.{digits}f} to {max(self.values):.{digits}f})"


@dataclass(frozen=True)
class Goal:
    """The number to reach.

    Args:
        value: of the ratio.
        least: whether it is to be that at least; at most otherwise.
    """

    value: float
    least: bool = True

    def met(self, ratio: float) -> bool:
        """Whether a ratio reaches it."""
        return ratio >= self.value if self.least else ratio <= self.value

    def show(self) -> str:
        """As the table has it."""
        return f"{'>=' if self.least else '<='} {self.value:g}"


@dataclass(frozen=True)
class Finding:
    """One row of the table.

    Args:
        work: what was done.
        peer: against whom.
        goal: of the ratio; None where there is none.
        ratio: what was found; None where it could not be measured.
        ours: our side in words, with units.
        theirs: the other side.
        checked: what was made sure to be the same on both sides; or why there is no ratio.
        digits: behind the point.
        refused: whether the sides turned out to do different things.
    """

    work: str
    peer: str
    goal: Goal | None
    ratio: Spread | None = None
    ours: str = ""
    theirs: str = ""
    checked: str = ""
    digits: int = 2
    refused: bool = False

    @property
    def verdict(self) -> str:
        """Whether the goal is met, or that there is nothing yet to tell by."""
        if self.ratio is None:
            return "**refused**" if self.refused else "not there yet"
        return "" if self.goal is None else "yes" if self.goal.met(self.ratio.middle) else "**no**"


def clock() -> float:
    """CPU seconds of this process on a processor; on an accelerator seconds by the wall, when it has finished."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
        return time.perf_counter()
    return time.process_time()


def timed(work: Callable[[], Any]) -> Side:
    """A side of which everything counts."""

    def side() -> Sample:
        start = clock()
        value = work()
        return Sample(clock() - start, value)

    return side


def interleave(sides: Mapping[str, Side], rounds: int = ROUNDS, warm: int = 1) -> dict[str, list[Sample]]:
    """Run all sides in turn, round after round.

    Args:
        sides: by name.
        rounds: that count.
        warm: rounds before them that do not.

    Returns:
        The samples of each side, by round.
    """
    found: dict[str, list[Sample]] = {name: [] for name in sides}
    for number in range(warm + rounds):
        for name in list(sides) if number % 2 == 0 else reversed(list(sides)):
            sample = sides[name]()
            say(f"    {'warm-up' if number < warm else f'round {number - warm + 1}'} {name} {sample.seconds:.2f} s")
            if number >= warm:
                found[name].append(sample)
    return found


def ratios(above: Sequence[Sample], below: Sequence[Sample]) -> Spread:
    """Seconds of one side over seconds of another, round by round."""
    return Spread(tuple(a.seconds / b.seconds for a, b in zip(above, below, strict=True)))


def speeds(amount: float, samples: Sequence[Sample]) -> Spread:
    """An amount of work per second, round by round."""
    return Spread(tuple(amount / s.seconds for s in samples))


def require_same(what: str, ours: object, theirs: object) -> str:
    """Make sure that both sides did the same; a comparison of different things is no benchmark.

    Raises:
        DifferentError: if they did not.
    """
    if ours != theirs:
        raise DifferentError(f"the sides differ in {what}: {_short(ours)} here, {_short(theirs)} there")
    return what


def peer(name: str) -> Any:
    """A module of `benchmarks.peers`; they need what only the `bench` extra installs.

    Raises:
        NotThereError: if the extra is not installed.
    """
    try:
        return importlib.import_module(f"benchmarks.peers.{name}")
    except ImportError as error:
        raise NotThereError(f"{error}; `make bench` installs the peers") from error


def fresh(target: str, arguments: Sequence[Any] = ()) -> tuple[Any, float]:
    """Run a function in a process of its own.

    Args:
        target: "module:function"; its result is plain JSON data.
        arguments: plain JSON data.

    Returns:
        The result, and the process's peak of resident memory in MB.

    Raises:
        RuntimeError: if it fails; with the last lines it said.
    """
    command = [sys.executable, "-m", "benchmarks.fresh", target, json.dumps(list(arguments))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{target} failed in its own process:\n" + "\n".join(done.stderr.splitlines()[-8:]))
    answer = json.loads(done.stdout.splitlines()[-1])
    return answer["value"], answer["peak"]


def peak_memory() -> float:
    """The most resident memory this process has had, in MB.

    Linux's VmHWM: ru_maxrss, but without what the parent had when it started us, which ru_maxrss takes over.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    if found is None:
        raise NotThereError("the peak of resident memory is read from Linux's /proc, which is not there")
    return int(found[1]) / 1024


def say(line: str) -> None:
    """Tell who waits."""
    print(line, file=sys.stderr, flush=True)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
