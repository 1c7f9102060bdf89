"""What people said of answers in use: logs of thumbs, skips and edits, as preferences with inverse-propensity weights.

One JSON object a line:

    {"time": "2026-01-31T12:00:00+00:00", "prompt": "a text, or turns {role, content}", "answer": "what was shown",
     "signal": "up", "propensity": 0.25}

`signal` is "up" or "down" (a thumb), "skip" (the answer was passed over, which counts as "down"), or "edit", with what
the answer was changed into as `edit`. `propensity` is the probability with which this answer was shown to this prompt,
1 where nothing else could have been. A log holds more of what is shown often: an event counts for 1 / propensity
(Horvitz & Thompson 1952), which is cut at a clip so that no rare event outweighs all others.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from everlearn.data.fields import Row, kind, text_in, turns_in
from everlearn.data.preferences import pair, verdict
from everlearn.data.rejects import Reject
from everlearn.data.scan import Raw, jsonl_rows
from everlearn.errors import ConfigError, DataError
from everlearn.examples import Example, Message

SIGNALS = {"up": True, "down": False, "skip": False}
"""What is said of an answer by a signal, where it is not edited."""


@dataclass(frozen=True)
class Feedback:
    """One event.

    Args:
        time: when.
        prompt: the turns that were answered.
        answer: what was shown.
        good: what was said of it; None where it was edited.
        edit: what it was changed into.
        propensity: the probability with which it was shown.
        source: where it was read, as "file:line".
    """

    time: datetime
    prompt: tuple[Message, ...]
    answer: str
    good: bool | None
    edit: str = ""
    propensity: float = 1.0
    source: str = ""


@dataclass(frozen=True)
class Log:
    """What is new in a log.

    Args:
        events: in the order of their times.
        rejects: the rows that are none.
        lines: that the log has, those that had been read before included.
    """

    events: tuple[Feedback, ...]
    rejects: tuple[Reject, ...]
    lines: int


def read_feedback(path: str | Path, read: int = 0) -> Log:
    """What a log says behind the lines that were read before, whatever its time.

    A last line that is broken and has no end yet is still being written: it is left for the next time.

    Args:
        path: a JSONL file, which is only ever added to.
        read: lines to pass over, as `Log.lines` counted them.

    Raises:
        DataError: if there is no such file, or it has fewer lines than were read.
    """
    path, found, rejects, lines = Path(path), list[Feedback](), list[Reject](), 0
    if not path.is_file():
        raise DataError(f"{path}: there is no such log; check the name, or make an empty file to begin with.")
    for raw in jsonl_rows(path):
        if raw.reason and _is_open(path, raw):
            break
        lines = int(raw.source.rpartition(":")[2])
        if lines <= read:
            continue
        try:
            found.append(_event(raw))
        except DataError as error:
            rejects.append(Reject(raw.source, str(error), raw.text))
    if lines < read:
        raise DataError(f"{path} has {lines} lines, and {read} were read before; add to it, or give a log of new name.")
    return Log(tuple(sorted(found, key=lambda event: event.time)), tuple(rejects), lines)


def feedback_pairs(events: Sequence[Feedback], clip: float = 10.0, per_prompt: int = 2) -> list[Example]:
    """Pairs: an edit over what it changed, and of answers to one prompt a good one over a bad one.

    An answer is what was last said of it, and neither where it was last edited. A pair counts for 1 / (the product of
    its shown answers' propensities).

    Args:
        events: in the order of their times.
        clip: most that a pair counts for.
        per_prompt: most pairs of good and bad answers to one prompt, the latest first, each answer once.

    Raises:
        ConfigError: if the clip is below 1.
    """
    require_clip(clip)
    pairs = [pair(e.prompt, e.edit, e.answer, {"weight": _weight(clip, e)}) for e in events if _edited(e)]
    for verdicts in _last(events).values():
        good, bad = ([e for e in reversed(verdicts) if e.good is said] for said in (True, False))
        for better, worse in list(zip(good, bad, strict=False))[:per_prompt]:
            pairs.append(pair(better.prompt, better.answer, worse.answer, {"weight": _weight(clip, better, worse)}))
    return pairs


def feedback_verdicts(events: Sequence[Feedback], clip: float = 10.0) -> list[Example]:
    """Judged answers, as KTO takes them: what was last said of each; an edited answer is bad, and its edit good.

    An edit that changes blanks alone says nothing.

    Args:
        events: in the order of their times.
        clip: most that an answer counts for.

    Raises:
        ConfigError: if the clip is below 1.
    """
    require_clip(clip)
    said: dict[tuple[tuple[Message, ...], str], Example] = {}
    for event in (e for e in events if e.good is not None or _edited(e)):
        for text, good in [(event.answer, bool(event.good)), *([(event.edit, True)] if event.edit else [])]:
            said.pop(key := (event.prompt, text.strip()), None)
            said[key] = verdict(event.prompt, text, good, {"weight": _weight(clip, event)})
    return list(said.values())


def _last(events: Sequence[Feedback]) -> dict[tuple[Message, ...], list[Feedback]]:
    """By prompt, what was last said of each answer, also that it was edited, in the order of times."""
    found: dict[tuple[Message, ...], dict[str, Feedback]] = defaultdict(dict)
    for event in events:
        if event.good is not None or _edited(event):
            found[event.prompt].pop(event.answer.strip(), None)
            found[event.prompt][event.answer.strip()] = event
    return {prompt: list(answers.values()) for prompt, answers in found.items()}


def _edited(event: Feedback) -> bool:
    """Whether the answer was changed into another one."""
    return bool(event.edit) and event.edit.strip() != event.answer.strip()


def _weight(clip: float, *events: Feedback) -> float:
    chance = 1.0
    for event in events:
        chance *= event.propensity
    return min(clip, 1 / chance)


def require_clip(clip: float) -> None:
    """Refuse a clip below which no event counts for one.

    Raises:
        ConfigError: if the clip is below 1, or infinite.
    """
    if not 1 <= clip < float("inf"):
        raise ConfigError(f"clip is {clip}; give a number of 1 or more, where 1 weighs all alike.")


def _is_open(path: Path, raw: Raw) -> bool:
    """Whether a row's line, as it was read, had no end."""
    with path.open("rb") as file:
        file.seek(raw.stop - 1)
        return file.read(1) != b"\n"


def _event(raw: Raw) -> Feedback:
    """A row as an event.

    Raises:
        DataError: saying what is wrong with it.
    """
    if raw.reason or not isinstance(raw.value, dict):
        raise DataError(raw.reason or f"is {kind(raw.value)}, not an object")
    row: Row = raw.value
    signal = text_in(row, "signal")
    if signal not in (*SIGNALS, "edit"):
        raise DataError(f"unknown signal {signal!r}; known are {[*SIGNALS, 'edit']}")
    edit = text_in(row, "edit") if signal == "edit" else ""
    prompt = row.get("prompt")
    turns = turns_in(prompt, "role", "content") if isinstance(prompt, list) else ()
    asked = turns or (Message("user", text_in(row, "prompt")),)
    if not any(turn.role == "user" for turn in asked):
        raise DataError("nothing is asked: no turn of the prompt is the user's")
    time, chance = _time(text_in(row, "time")), _propensity(row.get("propensity", 1.0))
    return Feedback(time, asked, text_in(row, "answer"), SIGNALS.get(signal), edit, chance, raw.source)


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise DataError(f"the time {text!r} is not ISO 8601, such as 2026-01-31T12:00:00+00:00") from error
    if time.tzinfo is None:
        raise DataError(f"the time {text!r} has no zone; add one, such as +00:00")
    return time


def _propensity(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise DataError(f"the propensity is {value!r}, not a probability in (0, 1]")
    return float(value)
