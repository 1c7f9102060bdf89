"""Answers of a chat model that are asked for once and kept on disk, so that work that was stopped goes on."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from everlearn.errors import ConfigError, ModelError
from everlearn.examples import Message
from everlearn.files import read_json, write_json
from everlearn.rewards.judge import Chat
from everlearn.types import Progress, Silent

_T = TypeVar("_T")
IN_A_ROW = 20
"""Failures one after the other after which nothing more is asked."""


@dataclass
class Answers:
    """Whom to ask, and what was answered before.

    An answer's file is named by the model's name and the words it was asked, so that the same is never asked twice and
    a change of either asks anew. A chat that raises `ModelError` has failed at that ask alone; it is counted, not kept,
    and asked again the next time. Any other error of the chat is a defect and is raised.

    Args:
        chat: from messages to text, such as `OpenAIChat`.
        folder: where answers are kept.
        model: who answers, in a word: part of the names, and of each document's provenance.
        at_once: asks on their way at the same time; 1 for a chat that is not for several threads.
        sent: asks that went to the chat, rather than to the folder.
        counts: what became of asks, by stage.
        progress: who wants to know how far it is.
    """

    chat: Chat
    folder: Path
    model: str
    at_once: int = 8
    sent: int = 0
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    progress: Progress = field(default_factory=Silent)
    _failed: int = field(default=0, init=False, repr=False)
    _lock: Any = field(default_factory=Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse to ask nobody."""
        if self.at_once < 1 or not self.model:
            raise ConfigError(f"at_once={self.at_once}, model={self.model!r}: ask one at least, and say who answers.")

    def name(self, prompt: str) -> str:
        """The name of the answer to a prompt."""
        return hashlib.sha256(json.dumps([self.model, prompt]).encode()).hexdigest()[:24]

    def tally(self, stage: str) -> Counter[str]:
        """The counts of a stage."""
        return self.counts.setdefault(stage, Counter())

    def ask(self, stage: str, prompts: Sequence[str], read: Callable[[str], _T | None]) -> list[_T | None]:
        """What is read from the answer to each prompt; None where asking failed, or the answer cannot be read.

        Args:
            stage: what the asks are for; "asked", "failed", "unread" are counted under it.
            prompts: each is one message of the user.
            read: from an answer to what is in it; None where it cannot be read.

        Raises:
            ModelError: if asking fails many times in a row; what was answered before is kept.
        """
        found = self._texts(stage, prompts)
        values = [read(text) if text is not None else None for text in found]
        unread = sum(text is not None and value is None for text, value in zip(found, values, strict=True))
        self.tally(stage).update({"asked": len(prompts), "failed": found.count(None), "unread": unread})
        return values

    def _texts(self, stage: str, prompts: Sequence[str]) -> list[str | None]:
        different, done = list(dict.fromkeys(prompts)), dict[str, str | None]()
        self._failed = 0
        pool = ThreadPoolExecutor(self.at_once)
        try:
            for prompt, text in zip(different, pool.map(self._text, different), strict=True):
                done[prompt] = text
                self.progress.update(stage, len(done), len(different))
        finally:
            pool.shutdown(cancel_futures=True)
        return [done[prompt] for prompt in prompts]

    def _text(self, prompt: str) -> str | None:
        name = self.name(prompt)
        file = self.folder / name[:2] / f"{name}.json"
        if file.exists():
            return str(read_json(file)["answer"])
        with self._lock:
            if self._failed >= IN_A_ROW:
                return None
            self.sent += 1
        try:
            text = self.chat((Message("user", prompt),))
        except ModelError as error:
            with self._lock:
                self._failed += 1
                if self._failed < IN_A_ROW:
                    return None
            raise ModelError(
                f"{self._failed} asks in a row have failed, the last one so: {error} What was answered is kept in "
                f"{self.folder}; start again when {self.model} answers."
            ) from error
        with self._lock:
            self._failed = 0
        write_json(file, {"model": self.model, "prompt": prompt, "answer": text})
        return text


def json_in(text: str, kind: type[_T]) -> _T | None:
    """The first JSON value of a kind (list or dict) in an answer, whatever stands around it; None if there is none."""
    decoder, start = json.JSONDecoder(), {list: "[", dict: "{"}[kind]  # type: ignore[index]
    place = text.find(start)
    while place >= 0:
        try:
            value = decoder.raw_decode(text, place)[0]
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, kind):
            return value
        place = text.find(start, place + 1)
    return None
