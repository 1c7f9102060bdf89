"""Ctrl-C as a request."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def stoppable(patient: bool = False) -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; a second one interrupts at once.

    Args:
        patient: whether later ones are requests as well. A launcher of several processes repeats the terminal's signal,
            and ends by force what has not stopped after half a minute.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    old = signal.getsignal(signal.SIGINT)

    def request(number: int, frame: FrameType | None) -> None:
        stop.set()
        if not patient:
            signal.signal(signal.SIGINT, old)

    signal.signal(signal.SIGINT, request)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, old)
