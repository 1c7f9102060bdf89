"""Metrics that find a generated answer right or wrong: exact, prefix and numeric match, a task's own verifier."""

import re
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from pkgutil import resolve_name
from typing import Any, Literal

from everlearn.data.overlap import words
from everlearn.errors import ConfigError, DataError
from everlearn.examples import Example
from everlearn.types import Question, Reply

NUMBER = re.compile(r"(?:(?<!\w)[-+])?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?<!\d)\.\d+)")
DELETE_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class ExactMatch:
    """1 if the reply is the target, after the clean-up that the fields ask for.

    As they stand, the fields give TRACE's accuracy (arXiv:2310.06762) but for the spaces around; with `characters=1`
    its ScienceQA scorer, which reads the letter and not the reasoning; with the other three on, the exact match of
    SuperNI and O-LoRA (arXiv:2204.07705).

    Args:
        strip: leave out spaces at both ends.
        ignore_case: compare in lower case.
        ignore_punctuation: leave out ASCII punctuation.
        collapse_spaces: take any run of spaces for one.
        characters: compare only so many characters from the start; None compares all.
    """

    strip: bool = True
    ignore_case: bool = False
    ignore_punctuation: bool = False
    collapse_spaces: bool = False
    characters: int | None = None

    @property
    def question(self) -> Question:
        """The model generates."""
        return "generate"

    def clean(self, text: str) -> str:
        """The text as it is compared."""
        text = text.lower() if self.ignore_case else text
        text = text.translate(DELETE_PUNCTUATION) if self.ignore_punctuation else text
        text = " ".join(text.split()) if self.collapse_spaces else text
        return (text.strip() if self.strip else text)[: self.characters]

    def score(self, example: Example, reply: Reply) -> float:
        """0 or 1."""
        return float(self.clean(reply.text) == self.clean(example.response))


@dataclass(frozen=True)
class PrefixMatch:
    """1 if the reply begins with the target, both stripped; what follows is not read (TreeLoRA's scorer).

    More lenient than exact match: "A" is found in "All of them". An empty target is never found.
    """

    @property
    def question(self) -> Question:
        """The model generates."""
        return "generate"

    def score(self, example: Example, reply: Reply) -> float:
        """0 or 1."""
        target = example.response.strip()
        return float(bool(target) and reply.text.strip().startswith(target))


@dataclass(frozen=True)
class Contains:
    """1 if the target's words stand in the reply, one after the other; case and punctuation are not read.

    For questions that may be answered in a sentence: "Tromsdal" is found in "She was born in Tromsdal." It does not
    read what is said about it ("not in Tromsdal"). Replies end eight tokens beyond the target's length, which a long
    sentence may reach before it names the target, and one that lists guesses as well. Any of the example's metadata
    "answers" will do, where it has some. A target without a word is never found.
    """

    @property
    def question(self) -> Question:
        """The model generates."""
        return "generate"

    def score(self, example: Example, reply: Reply) -> float:
        """0 or 1."""
        said = f" {' '.join(words(reply.text))} "
        targets = (words(answer) for answer in (example.response, *example.metadata.get("answers", ())))
        return float(any(target and f" {' '.join(target)} " in said for target in targets))


@dataclass(frozen=True)
class NumericMatch:
    """1 if a number in the reply equals the last number of the target, as GSM8K is scored (arXiv:2110.14168).

    A number may have a sign, commas between thousands and a decimal part; "0.50" equals ".5".

    Args:
        position: which number of the reply is the answer.
        tolerance: largest difference that still counts as equal.
    """

    position: Literal["first", "last"] = "last"
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a position that is neither."""
        if self.position not in ("first", "last"):
            raise ConfigError(f"NumericMatch: position {self.position!r}; use 'first' or 'last'.")

    @property
    def question(self) -> Question:
        """The model generates."""
        return "generate"

    def score(self, example: Example, reply: Reply) -> float:
        """0 or 1; 0 for a reply without a number.

        Raises:
            DataError: if the target holds no number.
        """
        targets, found = NUMBER.findall(example.response), NUMBER.findall(reply.text)
        if not targets:
            raise DataError(
                f"{example.source or 'an example'}: the target {example.response!r} holds no number, so NumericMatch "
                "cannot score it; use ExactMatch."
            )
        if not found:
            return 0.0
        answer = found[-1 if self.position == "last" else 0]
        distance = abs(Decimal(answer.replace(",", "")) - Decimal(targets[-1].replace(",", "")))
        return float(distance <= Decimal(self.tolerance))


@cache
def _scorer(task: str) -> Callable[[str, Mapping[str, Any]], float]:
    try:
        find = resolve_name("reasoning_gym:get_score_answer_fn")
    except ImportError as error:
        raise ConfigError(f"ReasoningGym({task!r}) needs reasoning-gym: pip install 'everlearn[rl]'.") from error
    try:
        scorer: Callable[[str, Mapping[str, Any]], float] = find(task)
    except ValueError as error:
        raise ConfigError(f"ReasoningGym({task!r}): {error}; use one of reasoning-gym's task names.") from error
    return scorer


@dataclass(frozen=True)
class ReasoningGym:
    """The score that reasoning-gym's own verifier for a task gives (arXiv:2505.24760).

    Some tasks give part of the score for a near miss, and some a little for any answer at all.

    Args:
        task: reasoning-gym's name of it, such as "chain_sum".
    """

    task: str

    @property
    def question(self) -> Question:
        """The model generates."""
        return "generate"

    def score(self, example: Example, reply: Reply) -> float:
        """In [0, 1], of the stripped reply against the entry in the example's metadata.

        Raises:
            ConfigError: if reasoning-gym is not installed, or has no such task.
            DataError: if the example has no entry.
        """
        if "entry" not in example.metadata:
            raise DataError(
                f"{example.source or 'an example'} has no 'entry' in its metadata, which {self.task}'s verifier reads; "
                "read the task by reasoning-gym's name."
            )
        return float(_scorer(self.task)(reply.text.strip(), example.metadata["entry"]))
