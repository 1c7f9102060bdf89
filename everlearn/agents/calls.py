"""Calls of strangers' code: what it raises is told and not hidden, and one that takes too long is not waited for."""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Thread
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """What came of a call.

    Args:
        value: what it returned.
        error: kind and message of what it raised; empty where it returned.
    """

    value: Any = None
    error: str = ""


def tried(work: Callable[[], Any]) -> Outcome:
    """The outcome of a call, here and now; only what stops the whole program is let through."""
    try:
        return Outcome(work())
    except Exception as error:
        return Outcome(error=f"{type(error).__name__}: {error}".rstrip(": "))


def limited(work: Callable[[], Any], seconds: float) -> Outcome:
    """The outcome of a call in a thread of its own, or that there was none in so many seconds.

    A thread cannot be stopped from outside: one that takes too long goes on by itself, ends with the program at the
    latest, and what it returns is not read.
    """
    found: list[Outcome] = []

    def told() -> None:
        try:
            found.append(tried(work))
        except SystemExit as error:  # ends this thread alone
            found.append(Outcome(error=f"SystemExit: {error}"))

    thread = Thread(target=told, daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else Outcome(error=f"TimeoutError: no result in {seconds:g} seconds")
