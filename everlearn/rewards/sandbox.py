"""Code of models is run in a sandbox: limited, alone, and gone afterwards.

Any process that runs what a model wrote can be attacked by it. On Linux, where the kernel lets this process make
namespaces (to root, and to most users outside containers), a program sees no network, no process but its own, and no
file but the system's libraries and this interpreter, read-only; its own folder is in memory and goes with it. It is
then as far away as a container would be: a hole in the kernel is not covered, and how long things take can be seen.

Where the kernel does not, `isolation()` is "hook", and a warning says so. The limits of time, memory and file size
hold still, and an audit hook refuses sockets, new processes, signals and writing outside the folder; but the program
can read what its user can read, and code that is set on it gets past the hook (through ctypes, say): run it in a
container then.
"""

import json
import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import IO, Literal

import psutil

from everlearn.errors import ConfigError, SandboxError

Status = Literal["passed", "failed", "error", "timeout", "memory"]
Isolation = Literal["kernel", "hook"]

ENCLOSURE = Path(__file__).with_name("enclosure.py")
START_UP = 60.0
"""Seconds until a program has to have begun; more than enough on a machine that does much else."""
REPORT = 4096
"""Bytes of the enclosure's words that are read."""
KILLS = 200
"""Rounds of killing what a program has left, 5 ms each; one is enough but for a fork bomb behind the hook."""
_EXIT = re.compile(rb"^exit .*\n", re.MULTILINE)


@dataclass(frozen=True)
class Limits:
    """What a program may use.

    All its processes together may use `processes` times `memory`, and `disk` besides.

    Args:
        seconds: on the clock.
        cpu: seconds of a processor for each process, whole ones; what the machine does beside does not count.
        memory: bytes of address space of each process; Python itself takes about 20 MB.
        disk: bytes of all its files together; of each file where the isolation is "hook".
        processes: processes and threads at a time, its own counted. Where the isolation is "hook", new processes are
            refused, and threads are not counted.
        output: bytes that are kept of stdout, and of stderr; what is more is thrown away.
    """

    seconds: float = 10.0
    cpu: int = 5
    memory: int = 512 * 2**20
    disk: int = 64 * 2**20
    processes: int = 16
    output: int = 64 * 2**10

    def __post_init__(self) -> None:
        """Refuse a limit that is not positive."""
        for name, value in asdict(self).items():
            if not value > 0:
                raise ConfigError(f"Limits: {name} is {value}; give a positive number.")


@dataclass(frozen=True)
class Finished:
    """How a program ended.

    Args:
        status: "passed" if it exited with 0; "failed" if an assertion did not hold; "memory" if it ran out of
            memory; "timeout" if it ran out of time; "error" for any other exception, exit status or signal.
        stdout: what it printed, as far as `Limits.output` goes; bytes that are no UTF-8 are replaced.
        stderr: likewise; ends with the traceback where an exception ended it.
        seconds: on the clock, from its first line.
        ended: whether its last line was reached. A program that exits before has passed, but not ended: what stood
            below, tests for one, was never run.
    """

    status: Status
    stdout: str
    stderr: str
    seconds: float
    ended: bool = False


def run_code(source: str, stdin: str = "", limits: Limits | None = None, name: str = "__main__") -> Finished:
    """Run a Python program in the sandbox: an empty folder, `python -I`, no environment but HOME and its like.

    Args:
        source: the program; it may import what this interpreter has installed.
        stdin: what it reads.
        limits: what it may use; by default `Limits()`.
        name: the program's `__name__`.

    Raises:
        SandboxError: if the sandbox itself cannot be set up.
    """
    return _run(_Program(source, stdin, name), limits or Limits(), isolation())


@cache
def isolation() -> Isolation:
    """What keeps programs in on this machine: "kernel" (namespaces) or, with a warning, "hook" (an audit hook)."""
    try:
        _run(_Program("", "", "__main__"), Limits(), "kernel")
    except SandboxError as error:
        warnings.warn(
            f"code of models runs behind an audit hook alone, which code set on it gets past: {error} "
            "Run in a container without network, or where user namespaces are allowed.",
            stacklevel=3,
        )
        return "hook"
    return "kernel"


@dataclass(frozen=True)
class _Program:
    source: str
    stdin: str
    name: str


@dataclass(frozen=True)
class _Seen:
    """What was read of a program, whether its time was over, and how long it took."""

    report: str
    stdout: str
    stderr: str
    late: bool
    seconds: float


def _run(program: _Program, limits: Limits, isolated: Isolation) -> Finished:
    with (
        tempfile.TemporaryDirectory(prefix="sandbox-") as place,
        _started(program, limits, Path(place), isolated) as (process, report),
    ):
        seen = _watch(process, report, limits)
    said = _said(seen.report)
    if "ready" not in said:
        words = seen.stderr.strip().rpartition("\n")[2] or "it said nothing"
        raise SandboxError(f"the sandbox did not start ({words}); see everlearn/rewards/sandbox.py for what it needs.")
    return Finished(_status(said, seen.late), seen.stdout, seen.stderr, seen.seconds, "ended" in said)


def _said(report: str) -> dict[str, str]:
    """The enclosure's words by the first of each: its outer process says "exit -9" once the inner one is gone."""
    return {word: rest for word, _, rest in (line.partition(" ") for line in reversed(report.splitlines()))}


def _status(said: Mapping[str, str], late: bool) -> Status:
    """The status that the enclosure's words amount to."""
    code = said.get("exit", "")
    if late or code == f"-{signal.SIGXCPU}":
        return "timeout"
    if code == "0":
        return "passed"
    if code == "1" and said.get("raised") in ("failed", "memory"):
        return "failed" if said["raised"] == "failed" else "memory"
    return "memory" if code == f"-{signal.SIGKILL}" else "error"  # only a kernel short of memory kills what is in time


@contextmanager
def _started(
    program: _Program, limits: Limits, place: Path, isolated: Isolation
) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """The process of a program and the descriptor of its enclosure's words; all of it has ended afterwards."""
    (place / "program.py").write_text(program.source, "utf-8", "surrogatepass")
    (place / "stdin").write_text(program.stdin, "utf-8", "surrogatepass")
    (place / "folder").mkdir()
    reading, writing = os.pipe()
    order = {
        "report": writing,
        "program": str(place / "program.py"),
        "folder": str(place / "folder"),
        "name": program.name,
        "limits": asdict(limits),
        "isolated": isolated == "kernel",
    }
    with (place / "stdin").open("rb") as stdin:
        process = subprocess.Popen(
            [sys.executable, "-I", "-B", "-X", "utf8", str(ENCLOSURE), json.dumps(order)],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=place,
            env={"PATH": os.defpath, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            pass_fds=(writing,),
            start_new_session=True,
        )
    os.close(writing)
    try:
        yield process, reading
    finally:
        _end(process)
        os.close(reading)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a process and all that came from it; orphans are still its children, since it adopts them."""
    for _ in range(KILLS):
        living = _living(process.pid)
        for child in living:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        if not living:
            break
        time.sleep(0.005)
    process.kill()
    process.wait()
    for stream in (process.stdout, process.stderr):
        if stream:
            stream.close()


def _living(parent: int) -> list[psutil.Process]:
    found = []
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(parent).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                found += [child] if child.status() != psutil.STATUS_ZOMBIE else []
    return found


def _watch(process: "subprocess.Popen[bytes]", report: int, limits: Limits) -> _Seen:
    """Read what the program and its enclosure say until the program has ended, or its time is over."""
    out, err = _number(process.stdout), _number(process.stderr)
    kept = {report: bytearray(), out: bytearray(), err: bytearray()}
    most = {report: REPORT, out: limits.output, err: limits.output}
    began, left, ready = time.monotonic(), START_UP, False
    with selectors.DefaultSelector() as selector:
        for descriptor in kept:
            selector.register(descriptor, selectors.EVENT_READ)
        while selector.get_map() and left > 0 and not _EXIT.search(kept[report]):
            _read(selector, kept, most, left)
            if not ready and kept[report].startswith(b"ready\n"):
                ready, began = True, time.monotonic()
            left = began + (limits.seconds if ready else START_UP) - time.monotonic()
        late = ready and left <= 0 and not _EXIT.search(kept[report])
        _read(selector, kept, most, 0.0)  # what was still in the pipes
    words = [bytes(text).decode("utf-8", "replace") for text in kept.values()]
    return _Seen(words[0], words[1], words[2], late, time.monotonic() - began)


def _read(
    selector: selectors.BaseSelector, kept: Mapping[int, bytearray], most: Mapping[int, int], wait: float
) -> None:
    """Keep what is there to be read, as far as each may be kept."""
    for key, _ in selector.select(wait):
        piece = os.read(key.fd, 2**16)
        kept[key.fd].extend(piece[: most[key.fd] - len(kept[key.fd])])
        if not piece:
            selector.unregister(key.fd)


def _number(stream: IO[bytes] | None) -> int:
    assert stream is not None  # a pipe was asked for
    return stream.fileno()
