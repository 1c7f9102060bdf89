"""Work that stops when its time is over, and goes on another day."""

import time

from everlearn.errors import Interrupted
from everlearn.types import Progress, Silent


class Until:
    """Progress that stops the work when its time is over; the work goes on from there another day.

    Args:
        progress: who is told.
        hours: from now on; None never stops.
    """

    def __init__(self, progress: Progress, hours: float | None) -> None:
        self._progress, self._end = progress, time.time() + 3600 * (float("inf") if hours is None else hours)

    def elsewhere(self) -> "Until":
        """The same end for another process, which tells nobody."""
        found = Until(Silent(), None)
        found._end = self._end
        return found

    def update(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Pass on.

        Raises:
            Interrupted: if the time is over.
        """
        self._progress.update(stage, done, total, note)
        if time.time() > self._end:
            raise Interrupted("the hours are over; the same call goes on.")
