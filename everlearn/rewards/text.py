"""Rewards that read a completion's text and length: exact match, format, and how long it is."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from everlearn.errors import ConfigError
from everlearn.examples import Example
from everlearn.metrics.text import ExactMatch
from everlearn.rewards.extraction import Extractor, WholeText
from everlearn.rewards.reward import Answer, Scores, right_answer
from everlearn.types import Reply


@dataclass(frozen=True)
class Exact:
    """1 if the answer in the completion is the example's, else 0, also where it holds none; None where none is known.

    Args:
        match: the clean-up before they are compared, such as `ExactMatch(ignore_case=True)`.
        extract: finds the answer in the completion.
    """

    match: ExactMatch = ExactMatch()
    extract: Extractor = WholeText()

    def score(self, example: Example, replies: Sequence[Answer]) -> Scores:
        """See `Reward`."""
        if right_answer(example) is None:
            return [None] * len(replies)
        answers = [self.extract.find(reply.text) for reply in replies]
        return [0.0 if answer is None else self.match.score(example, Reply(answer)) for answer in answers]


@dataclass(frozen=True)
class Answered:
    """1 if a completion holds an answer at all, right or wrong, else 0: the control arm of a vote.

    What a model gains by it is gained by form alone.

    Args:
        extract: finds the answer in the completion.
    """

    extract: Extractor = WholeText()

    def score(self, example: Example, replies: Sequence[Answer]) -> Scores:
        """See `Reward`."""
        return [float(self.extract.find(reply.text) is not None) for reply in replies]


@dataclass(frozen=True)
class Format:
    """1 if the completion has the form asked for, else 0.

    Args:
        pattern: a regular expression that the whole completion, stripped, has to match; "." matches line breaks too.
            Empty asks for nothing.
        tags: each has to stand there once, opened and closed, one after the other: `("think", "answer")` asks for
            `<think>...</think>...<answer>...</answer>`.
    """

    pattern: str = ""
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a form that is none, or cannot be read."""
        if not self.pattern and not self.tags:
            raise ConfigError('Format: asks for nothing; give it a pattern, or tags, as in Format(tags=("answer",)).')
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ConfigError(f"Format: the pattern {self.pattern!r} is no regular expression ({error}).") from error

    def score(self, example: Example, replies: Sequence[Answer]) -> Scores:
        """See `Reward`."""
        return [float(self._matches(reply.text) and self._is_tagged(reply.text)) for reply in replies]

    def _matches(self, text: str) -> bool:
        return not self.pattern or re.fullmatch(self.pattern, text.strip(), re.DOTALL) is not None

    def _is_tagged(self, text: str) -> bool:
        marks = [mark for tag in self.tags for mark in (f"<{tag}>", f"</{tag}>")]
        places = [text.find(mark) for mark in marks]
        return all(text.count(mark) == 1 for mark in marks) and places == sorted(places)


@dataclass(frozen=True)
class Length:
    """The soft penalty of DAPO for long completions (arXiv:2503.14476, eq. 13): 0, then falling, then -1.

    0 up to `limit - cushion` tokens, from there linear to -1 at the limit, and -1 beyond. Meant to be added to another
    reward: `Weighted((Part(Exact()), Part(Length(256))))`.

    Args:
        limit: L_max in tokens; as a rule the sampling's limit, where a completion is cut off.
        cushion: L_cache in tokens; a fifth of the limit, as in the paper, where it is not given.
    """

    limit: int
    cushion: int | None = None

    def __post_init__(self) -> None:
        """Refuse a cushion that does not fit below the limit."""
        if self.limit < 1 or (self.cushion is not None and not 1 <= self.cushion <= self.limit):
            raise ConfigError(
                f"Length: limit={self.limit}, cushion={self.cushion}; give a limit of a token or more, and a cushion "
                "from 1 to the limit."
            )

    def score(self, example: Example, replies: Sequence[Answer]) -> Scores:
        """See `Reward`."""
        cushion = self.cushion or max(1, self.limit // 5)
        return [-min(1.0, max(0.0, (reply.tokens - self.limit + cushion) / cushion)) for reply in replies]


@dataclass(frozen=True)
class TargetLength:
    """0 at a length, and falling on both sides of it: -|tokens - target| / target, never below -1.

    The length term of L1-Exact (arXiv:2503.04697) with its alpha as 1 / target, so that it means the same at any
    length, and with a floor.

    Args:
        target: in tokens.
    """

    target: int

    def __post_init__(self) -> None:
        """Refuse a target below one token."""
        if self.target < 1:
            raise ConfigError(f"TargetLength: target is {self.target}; a completion has one token at least.")

    def score(self, example: Example, replies: Sequence[Answer]) -> Scores:
        """See `Reward`."""
        return [-min(1.0, abs(reply.tokens - self.target) / self.target) for reply in replies]
