"""Mathematics read and compared by math-verify, which knows LaTeX; nothing else in the package imports it."""

import re
from functools import lru_cache
from threading import current_thread, main_thread
from typing import Any

import math_verify  # type: ignore[import-untyped, import-not-found, unused-ignore]

from everlearn.errors import ConfigError

MARKED = ("$", r"\boxed", r"\[", r"\(")
"""Text that holds one of these says itself where its mathematics is."""
FUNCTIONS = "arccos|arcsin|arctan|cosh|cos|cot|csc|det|exp|gcd|inf|lcm|lim|log|max|min|mod|sec|sinh|sin|sqrt|tanh|tan"
PROSE = re.compile(rf"(?<![\\A-Za-z])(?!(?:{FUNCTIONS})\b)[A-Za-z]{{3,}}")
"""A word. Without one, unmarked text is one expression, where math-verify would take the first number in it."""


def is_readable(text: str, seconds: int) -> bool:
    """Whether there is mathematics in a text."""
    return bool(_parsed(text, seconds))


def is_equal(gold: str, answer: str, seconds: int) -> bool:
    """Whether the mathematics in an answer is that of the right one; not where either cannot be read in time.

    Args:
        gold: the right answer; math-verify lets it be an interval where the answer is an inequality, and not always
            the other way about.
        answer: what is compared with it.
        seconds: for reading each, and for comparing them.

    Raises:
        ConfigError: outside the main thread, where math-verify cannot keep time.
    """
    right, found = _parsed(gold, seconds), _parsed(answer, seconds)
    return bool(right and found and math_verify.verify(list(right), list(found), timeout_seconds=seconds))


def _parsed(text: str, seconds: int) -> tuple[Any, ...]:
    if current_thread() is not main_thread():
        raise ConfigError(
            "math-verify keeps time by an alarm, which only the main thread of a program can set; score there."
        )
    return _read(text, seconds)


@lru_cache(maxsize=4096)
def _read(text: str, seconds: int) -> tuple[Any, ...]:
    whole = not any(mark in text for mark in MARKED) and not PROSE.search(text)
    return tuple(
        math_verify.parse(f"${text.strip()}$" if whole else text, fallback_mode="no_fallback", parsing_timeout=seconds)
    )
