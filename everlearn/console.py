"""What the commands share: exit codes, what they print, and how one that was stopped goes on."""

import json
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console, RenderableType

from everlearn.errors import Interrupted

OK, NO, FAILED, STOPPED = 0, 1, 2, 130
"""All is well; the answer is no; it failed, and the message says what to do; stopped by Ctrl-C."""


@contextmanager
def resumable(out: Path) -> Iterator[None]:
    """Say after Ctrl-C, once or twice, how to go on.

    Args:
        out: where what is done is kept.

    Raises:
        Interrupted: with the command that goes on.
    """
    try:
        yield
    except (Interrupted, KeyboardInterrupt) as stopped:
        program = "everlearn" if shutil.which("everlearn") else sys.argv[0]  # make starts one that is not on the path
        again = shlex.join([program, *sys.argv[1:]])
        what = f"{stopped}" or "stopped at once; what was done since the last checkpoint is done again."
        raise Interrupted(f"{what} What is done is kept in {out}. To go on:\n  {again}") from stopped


def print_table(table: RenderableType) -> None:
    """Print a table, as wide as the terminal is."""
    Console().print(table)


def print_json(value: Any) -> None:
    """Print plain data for machines."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
