"""The table as Markdown, with what one has to know to measure it again."""

import os
import platform
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from benchmarks.harness import Finding

RESULTS = Path(__file__).with_name("RESULTS.md")
PACKAGES = ("everlearn", "torch", "transformers", "trl", "peft", "lm_eval")
HEADER = ("work", "beside", "ratio", "goal", "met", "ours", "theirs", "the same on both sides")

ABOUT = """\
SmolLM2-135M-Instruct, LoRA of rank 16 on all linears where a row does not say that all weights learn, one thread. Both
sides run in one process (memory: in fresh ones), interleaved; ratios are taken round by round, and their median is
given with the least and the largest. Times are CPU time of the process, but for those said to be by the wall; on an
accelerator they are by the wall. Speeds are per core. Our side of training counts its set-up, TRL's does not. A row
without a ratio says why.
"""


def results(findings: Sequence[Finding], command: str, minutes: float) -> str:
    """The whole page."""
    lines = ["# Speed and memory beside the peers", "", f"    {command}", ""]
    lines += [f"{datetime.now(UTC):%Y-%m-%d}, {minutes:.0f} minutes, {machine()}.", "", versions(), "", ABOUT]
    return "\n".join([*lines, *_table(findings), ""])


def show(findings: Sequence[Finding]) -> str:
    """The table for a terminal, one fact a line."""
    blocks = []
    for f in findings:
        found = (
            f"{f.ratio.show(f.digits)}  (goal {f.goal.show() if f.goal else 'none'}: {f.verdict})"
            if f.ratio
            else f.verdict
        )
        sides = f"  ours {f.ours}; {f.peer or 'theirs'} {f.theirs}" if f.ours else f"  {f.peer}"
        blocks.append("\n".join([f"{f.work}: {found}", sides, f"  {f.checked}"]))
    return "\n".join(blocks)


def machine() -> str:
    """Cores and the instructions that decide how fast matrices are multiplied; no name."""
    flags = Path("/proc/cpuinfo")
    text = flags.read_text(encoding="utf-8") if flags.is_file() else ""
    model = re.search(r"model name\s*: (.+)", text)
    wanted = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16")
    there = [flag for flag in wanted if re.search(rf"\b{flag}\b", text)]
    name = model[1].strip() if model else platform.processor()
    device = f"; {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    instructions = " ".join(there) or "no vector instructions that we know"
    return f"{name or platform.machine()}, {os.cpu_count()} cores, one used, {instructions}{device}"


def versions() -> str:
    """What was compared."""
    return ", ".join([f"Python {platform.python_version()}", *(f"{p} {_version(p)}" for p in PACKAGES)]) + "."


def _table(findings: Sequence[Finding]) -> list[str]:
    rule = "|---" * len(HEADER) + "|"
    return [_line(HEADER), rule, *(_line(_cells(f)) for f in findings)]


def _cells(f: Finding) -> tuple[str, ...]:
    ratio = f.ratio.show(f.digits) if f.ratio else "-"
    goal = f.goal.show() if f.goal else ""
    return f.work, f.peer, ratio, goal, f.verdict, f.ours, f.theirs, f.checked


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not there"
