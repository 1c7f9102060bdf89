"""Rows about starting: what one waits for before anything happens."""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import Finding, Goal, Spread

TIMES = 7


def start(quick: bool = False) -> list[Finding]:
    """Seconds by the wall of fresh processes, Python's own start included."""
    command = Path(sys.executable).with_name("everlearn")
    cases = {
        "`import everlearn`": ([sys.executable, "-c", "import everlearn"], 0.3),
        "`everlearn --help`": ([str(command), "--help"], 0.6),
    }
    findings = []
    for name, (call, limit) in cases.items():
        seconds = [_seconds(call) for _ in range(2 if quick else TIMES)][1:]  # the first one reads the files
        work, checked = f"{name}: seconds by the wall", f"{len(seconds)} fresh processes"
        findings.append(Finding(work, "", Goal(limit, least=False), Spread(tuple(seconds)), checked=checked))
    return findings


def _seconds(command: Sequence[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start
