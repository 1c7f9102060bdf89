"""How the answer is found in a completion: all of it, what stands behind a mark, in tags or in a box, a number."""

import re
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from everlearn.errors import ConfigError
from everlearn.metrics.text import NUMBER

FRACTION = re.compile(rf"(?:{NUMBER.pattern})(?:\s*/\s*(?:{NUMBER.pattern}))?")
"""A number, or one over another."""


@runtime_checkable
class Extractor(Protocol):
    """Finds the answer in a completion. Frozen data."""

    def find(self, text: str) -> str | None:
        """The answer, stripped and never empty; None where there is none."""


@dataclass(frozen=True)
class WholeText:
    """The whole completion is the answer."""

    def find(self, text: str) -> str | None:
        """See `Extractor`."""
        return text.strip() or None


@dataclass(frozen=True)
class Marked:
    """What stands behind the last mark, on the same line; nothing where that is blank, whatever comes below.

    Args:
        mark: such as GSM8K's "####", or "Answer:".
    """

    mark: str = "####"

    def __post_init__(self) -> None:
        """Refuse an empty mark."""
        if not self.mark:
            raise ConfigError("Marked: the mark is empty; give what stands before an answer, or use WholeText.")

    def find(self, text: str) -> str | None:
        """See `Extractor`."""
        _, mark, rest = text.rpartition(self.mark)
        return (rest.splitlines() or [""])[0].strip() or None if mark else None


@dataclass(frozen=True)
class Tagged:
    """What stands in the last pair of tags: `<answer>7</answer>`.

    Args:
        tag: without its brackets.
    """

    tag: str = "answer"

    def __post_init__(self) -> None:
        """Refuse an empty tag."""
        if not self.tag:
            raise ConfigError('Tagged: the tag is empty; give its name, as in Tagged("answer").')

    def find(self, text: str) -> str | None:
        """See `Extractor`."""
        head, end, _ = text.rpartition(f"</{self.tag}>")
        _, begin, inside = head.rpartition(f"<{self.tag}>")
        return inside.strip() or None if begin and end else None


@dataclass(frozen=True)
class Boxed:
    r"""What stands in the last complete `\boxed{...}`, braces inside it included."""

    def find(self, text: str) -> str | None:
        """See `Extractor`."""
        for start in reversed([m.end() for m in re.finditer(r"\\boxed\s*\{", text)]):
            depth = 1
            for place in range(start, len(text)):
                depth += {"{": 1, "}": -1}.get(text[place], 0)
                if not depth:
                    return text[start:place].strip() or None
        return None


@dataclass(frozen=True)
class Number:
    """A number with sign, commas between thousands and decimal part, or one over another: "-1,234.5", "3/1,000".

    Args:
        position: which one, where there are several.
    """

    position: Literal["first", "last"] = "last"

    def __post_init__(self) -> None:
        """Refuse a position that is neither."""
        if self.position not in ("first", "last"):
            raise ConfigError(f"Number: position {self.position!r}; use 'first' or 'last'.")

    def find(self, text: str) -> str | None:
        """See `Extractor`."""
        found = [m.group() for m in FRACTION.finditer(text)]
        return found[-1 if self.position == "last" else 0] if found else None
