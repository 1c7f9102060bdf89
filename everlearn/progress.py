"""Long work in a terminal: a bar with an estimate for what is under way, a line for what is done."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Bars:
    """Progress for people; use as a context manager.

    A bar appears with the first update of a stage and becomes a line when the stage is done. In a log file only the
    lines are written.

    Args:
        console: where to draw; standard error, so that standard output stays for results.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[note]}", markup=False, style="dim"),
            TimeElapsedColumn(),
            TextColumn("left", style="dim"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
        )
        self._tasks: dict[str, tuple[TaskID, float]] = {}

    def __enter__(self) -> "Bars":
        """Begin to draw."""
        self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop drawing."""
        self._bars.stop()

    def update(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Work named `stage` has done `done` of `total` units."""
        if stage not in self._tasks:
            self._tasks[stage] = (self._bars.add_task(stage, total=total, note=note), time.monotonic())
        task, started = self._tasks[stage]
        self._bars.update(task, completed=done, total=total, note=note)
        if done >= total:
            self._bars.remove_task(task)
            del self._tasks[stage]
            seconds = time.monotonic() - started
            if seconds >= 1:
                self.console.print(
                    f"  {stage}: {seconds:.0f} s{', ' + note if note else ''}", markup=False, highlight=False
                )
