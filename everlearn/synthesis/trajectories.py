"""What was done about a task, step by step: what was said and called, and what came back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from everlearn.data.fields import kind, optional, turns_in
from everlearn.errors import DataError
from everlearn.examples import Message
from everlearn.files import read_jsonl


@dataclass(frozen=True)
class Action:
    """One step.

    Args:
        said: a thought and a call, or an answer.
        seen: what came back; empty at the end.
    """

    said: str
    seen: str = ""


@dataclass(frozen=True)
class Trajectory:
    """An attempt at a task, whether it succeeded or not.

    Args:
        task: what was asked, with all that was said before the first step.
        actions: in order; one at least.
        success: whether it came to the right end.
        source: where it was read.
    """

    task: str
    actions: tuple[Action, ...]
    success: bool
    source: str = ""

    @classmethod
    def of(cls, messages: Sequence[Message], success: bool, source: str = "") -> "Trajectory":
        """A conversation: the assistant's turns are steps, and what stands between them is what came back.

        Raises:
            DataError: if the assistant does not speak, or nobody does before it.
        """
        spoken = [place for place, message in enumerate(messages) if message.role == "assistant"]
        if not spoken or not spoken[0]:
            raise DataError(f"{source or 'a trajectory'} has no task with an answer of the assistant's after it.")
        ends = [*spoken[1:], len(messages)]
        actions = (
            Action(messages[here].content, _joined(messages[here + 1 : end]))
            for here, end in zip(spoken, ends, strict=True)
        )
        return cls(_joined(messages[: spoken[0]]), tuple(actions), success, source)


def _joined(messages: Sequence[Message]) -> str:
    return "\n\n".join(message.content for message in messages)


def read_trajectories(path: str | Path, success_from: float = 1.0) -> tuple[Trajectory, ...]:
    """The trajectories of a JSONL file.

    A row is `{"messages": [{"role", "content"}, ...], "success": true or false}`, or has a number as "reward" in place
    of "success", as a run's traces.jsonl has; rows of it without messages, as attempts in one turn are, and with a
    reward that could not be told, are left out.

    Args:
        path: the file.
        success_from: the least reward of a success.

    Raises:
        DataError: with file and line, at the first row that is no trajectory; or if there is none.
    """
    path, found = Path(path).expanduser(), list[Trajectory]()
    for number, row in read_jsonl(path):
        source = f"{path.name}:{number}"
        try:
            success = _success(row, success_from)
            turns = turns_in(optional(row, "messages", list), "role", "content") if row.get("messages") else ()
            found += [Trajectory.of(turns, success, source)] if turns and success is not None else []
        except DataError as error:
            raise DataError(f"{path}:{number}: {str(error).rstrip('.')}; correct or remove this row.") from error
    if not found:
        raise DataError(f"{path}: holds no trajectory; a row is {{messages, success}} or {{messages, reward}}.")
    return tuple(found)


def _success(row: Any, success_from: float) -> bool | None:
    """Whether an attempt succeeded; None where its reward could not be told."""
    if not isinstance(row, Mapping):
        raise DataError(f"is {kind(row)}, not an object.")
    if isinstance(row.get("success"), bool):
        return bool(row["success"])
    if "reward" not in row or isinstance(row["reward"], bool | str):
        raise DataError("has neither 'success', true or false, nor a number as 'reward'.")
    return None if row["reward"] is None else bool(row["reward"] >= success_from)
