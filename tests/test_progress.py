"""Progress writes a line for what took a while, and forgets what is done."""

import io
import time

from rich.console import Console

from everlearn.progress import Bars


def test_a_stage_that_took_a_while_leaves_a_line() -> None:
    out = io.StringIO()
    with Bars(Console(file=out, width=100)) as bars:
        bars.update("short", 1, 1)
        bars.update("long", 0, 2)
        time.sleep(1.05)
        bars.update("long", 2, 2, "loss [1.5]")
    assert "long: 1 s, loss [1.5]" in out.getvalue()
    assert "short:" not in out.getvalue()


def test_a_stage_may_come_again() -> None:
    with Bars(Console(file=io.StringIO())) as bars:
        for _ in range(2):
            bars.update("again", 0, 1)
            bars.update("again", 1, 1)
