"""What stands in the fields of a row: texts, turns and lists, or a word about what is wrong with them."""

import json
from collections.abc import Mapping
from typing import Any

from everlearn.data.scan import encodable
from everlearn.errors import DataError
from everlearn.examples import Example, Message

Row = Mapping[str, Any]

# What each name of a turn's author means. Many chat templates know these three roles alone, so that what a tool
# returns is given to the model as a user's turn, and its call of a function is its own.
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "observation": "user",
    "tool": "user",
    "function": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "function_call": "assistant",
}


def kind(value: object) -> str:
    """What a value is, in words."""
    if isinstance(value, bool | int | float):
        return f"the {'boolean' if isinstance(value, bool) else 'number'} {json.dumps(value)}"
    return "null" if value is None else {"list": "a list", "dict": "an object"}.get(type(value).__name__, "a text")


def text_in(row: Row, name: str) -> str:
    """The text in a field that has to be there and not be blank."""
    if name not in row:
        raise DataError(f"lacks the field {name!r}; it has {sorted(row)}")
    value = row[name]
    if not isinstance(value, str):
        raise DataError(f"the field {name!r} is {kind(value)}, not text")
    if not value.strip():
        raise DataError(f"the field {name!r} is empty")
    if not encodable(value):
        raise DataError(f"the field {name!r} holds half of a surrogate pair, which is not text")
    return value


def optional(row: Row, name: str, wanted: type[list[Any]] | type[dict[str, Any]]) -> Any:
    """What is in a field that may be missing or null; an empty one of the wanted kind then."""
    value = row.get(name)
    if value is not None and not isinstance(value, wanted):
        raise DataError(f"the field {name!r} is {kind(value)}, not {kind(wanted())}")
    return wanted() if value is None else value


def system(row: Row) -> tuple[Message, ...]:
    """The turn that a row's `system` is; none where there is none."""
    return (Message("system", text_in(row, "system")),) if row.get("system") else ()


def conversation(row: Row, turns: tuple[Message, ...]) -> Example:
    """An example of the turns with the row's choices and metadata."""
    choices = optional(row, "choices", list)
    texts = tuple(text_in({"choices": choice}, "choices") for choice in choices)
    if texts and turns[-1].content not in texts:
        raise DataError(f"the right answer {turns[-1].content!r} is not one of its choices {list(texts)}")
    return Example(messages=turns, choices=texts, metadata=optional(row, "metadata", dict))


def asked(prompt: str, answer: str, metadata: Mapping[str, Any]) -> Example:
    """An example of one question and its answer."""
    return Example(messages=(Message("user", prompt), Message("assistant", answer)), metadata=metadata)


def turns_in(turns: list[Any], author: str, content: str) -> tuple[Message, ...]:
    """The turns of a conversation whose fields are named `author` and `content`."""
    read = []
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, dict):
            raise DataError(f"turn {number} is {kind(turn)}, not an object with {author!r} and {content!r}")
        try:
            role, words = text_in(turn, author), text_in(turn, content)
        except DataError as error:
            raise DataError(f"turn {number}: {error}") from error
        if role not in ROLES:
            raise DataError(f"turn {number}: unknown {author} {role!r}; known are {sorted(ROLES)}")
        read.append(Message(ROLES[role], words))
    return tuple(read)


def ending_well(turns: tuple[Message, ...]) -> tuple[Message, ...]:
    """The turns, if the assistant's is the last of them."""
    if not turns or turns[-1].role != "assistant":
        raise DataError("the conversation has to end with a turn of the assistant")
    return turns
