"""Kill real processes while they write: at each moment they touch the disk, or after a time, wherever they are."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path

TOUCHES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}
REPOSITORY = Path(__file__).resolve().parents[1]


def killed_at_each_touch(act: Callable[[], object]) -> Iterator[int]:
    """Run `act` in forks of this process that are killed before their first, second, ... touch of the disk, until one
    ends by itself; yield after each kill. To be called in a process of its own, since a fork copies one thread only."""
    for moment in count():
        process = os.fork()
        if process == 0:
            _die_at(moment)
            code = 1
            try:
                act()
                code = 0
            finally:
                os._exit(code)
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if status == 0:
            return
        assert status == -signal.SIGKILL, f"the act failed with exit code {status}"
        yield moment


def _die_at(moment: int) -> None:
    left = iter(range(moment))

    def touched(event: str, arguments: tuple[object, ...]) -> None:
        if event in TOUCHES and next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(touched)


def outcome(script: str, *arguments: object) -> str:
    """What a script printed that ran to its end in a process of its own."""
    done = subprocess.run(_command(script, arguments), cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def killed_at_random(script: str, look: Callable[[], object], *arguments: object, seeds: Iterable[int]) -> None:
    """Kill a script that writes for ever at seeded moments after it said "ready"; look until each kill, and after."""
    for seed in seeds:
        process = subprocess.Popen(_command(script, arguments), cwd=REPOSITORY, stdout=subprocess.PIPE)
        assert process.stdout is not None
        with process.stdout:
            assert process.stdout.readline() == b"ready\n"
        end = time.monotonic() + random.Random(seed).uniform(0.01, 0.15)
        while time.monotonic() < end:
            look()
        process.kill()
        assert process.wait() == -signal.SIGKILL, "the script ended before it was killed"
        look()


def _command(script: str, arguments: tuple[object, ...]) -> list[str]:
    return [sys.executable, "-W", "error", "-c", script, *map(str, arguments)]
