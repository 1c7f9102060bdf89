"""`python -m benchmarks [--only ROW,...] [--quick]`: measure, print the table, and write RESULTS.md.

A partial or quick run prints and writes nothing.
"""

import os
import time
from typing import Annotated

import torch
import typer

from benchmarks.harness import Finding, say
from benchmarks.rows import ROWS
from benchmarks.table import RESULTS, machine, results, show, versions
from everlearn.files import write_atomic


def main(
    only: Annotated[str, typer.Option(help=f"Rows, separated by commas: {', '.join(ROWS)}.")] = "",
    quick: Annotated[bool, typer.Option(help="One round, and less work where that makes sense.")] = False,
) -> None:
    """Compare everlearn with its peers."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # nothing that is measured waits for a network
    torch.set_num_threads(1)
    chosen = [name.strip() for name in only.split(",") if name.strip()] or list(ROWS)
    if unknown := [name for name in chosen if name not in ROWS]:
        raise typer.BadParameter(f"no row is called {', '.join(unknown)}; there are {', '.join(ROWS)}")
    started, findings = time.monotonic(), list[Finding]()
    for number, name in enumerate(chosen, start=1):
        say(f"[{number}/{len(chosen)}] {name} ({(time.monotonic() - started) / 60:.1f} min)")
        findings += ROWS[name].findings(quick)
    print(f"{machine()}\n{versions()}\n\n{show(findings)}")
    if not quick and len(chosen) == len(ROWS):
        minutes = (time.monotonic() - started) / 60
        write_atomic(RESULTS, results(findings, "make bench", minutes))
        say(f"\nwritten to benchmarks/{RESULTS.name} after {minutes:.0f} minutes")
    if any(f.refused for f in findings):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
