"""From one row of a file to one example: our own row shapes, and the layouts that benchmarks are published in."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from everlearn.data.scan import encodable
from everlearn.errors import ConfigError, DataError
from everlearn.examples import Example, Message
from everlearn.files import read_json

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
# Fields that make a row with a `text` more than a document.
_TARGETS = ("label", "labels", "answer", "response", "completion", "target", "output")


def _kind(value: object) -> str:
    if isinstance(value, bool | int | float):
        return f"the {'boolean' if isinstance(value, bool) else 'number'} {json.dumps(value)}"
    return "null" if value is None else {"list": "a list", "dict": "an object"}.get(type(value).__name__, "a text")


def _text(row: Row, name: str) -> str:
    """The text in a field that has to be there and not be blank."""
    if name not in row:
        raise DataError(f"lacks the field {name!r}; it has {sorted(row)}")
    value = row[name]
    if not isinstance(value, str):
        raise DataError(f"the field {name!r} is {_kind(value)}, not text")
    if not value.strip():
        raise DataError(f"the field {name!r} is empty")
    if not encodable(value):
        raise DataError(f"the field {name!r} holds half of a surrogate pair, which is not text")
    return value


def _optional(row: Row, name: str, kind: type[list[Any]] | type[dict[str, Any]]) -> Any:
    value = row.get(name)
    if value is not None and not isinstance(value, kind):
        raise DataError(f"the field {name!r} is {_kind(value)}, not {_kind(kind())}")
    return kind() if value is None else value


def _system(row: Row) -> tuple[Message, ...]:
    return (Message("system", _text(row, "system")),) if row.get("system") else ()


def _conversation(row: Row, turns: tuple[Message, ...]) -> Example:
    """An example of the turns with the row's choices and metadata."""
    choices = _optional(row, "choices", list)
    texts = tuple(_text({"choices": choice}, "choices") for choice in choices)
    if texts and turns[-1].content not in texts:
        raise DataError(f"the right answer {turns[-1].content!r} is not one of its choices {list(texts)}")
    return Example(messages=turns, choices=texts, metadata=_optional(row, "metadata", dict))


def _asked(prompt: str, answer: str, metadata: Mapping[str, Any]) -> Example:
    return Example(messages=(Message("user", prompt), Message("assistant", answer)), metadata=metadata)


def _turns(turns: list[Any], author: str, content: str) -> tuple[Message, ...]:
    """The turns of a conversation whose fields are named `author` and `content`."""
    read = []
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, dict):
            raise DataError(f"turn {number} is {_kind(turn)}, not an object with {author!r} and {content!r}")
        try:
            role, words = _text(turn, author), _text(turn, content)
        except DataError as error:
            raise DataError(f"turn {number}: {error}") from error
        if role not in ROLES:
            raise DataError(f"turn {number}: unknown {author} {role!r}; known are {sorted(ROLES)}")
        read.append(Message(ROLES[role], words))
    return tuple(read)


def _ending_well(turns: tuple[Message, ...]) -> tuple[Message, ...]:
    if not turns or turns[-1].role != "assistant":
        raise DataError("the conversation has to end with a turn of the assistant")
    return turns


def prompt_response(row: Row, file: "Layout") -> Example:
    """`{prompt, response}`, and optionally `system`, `choices`, `metadata`."""
    turns = (Message("user", _text(row, "prompt")), Message("assistant", _text(row, "response")))
    return _conversation(row, (*_system(row), *turns))


def messages(row: Row, file: "Layout") -> Example:
    """`{messages: [{role, content}, ...]}`, and optionally `choices`, `metadata`; ends with the assistant."""
    turns = _turns(_optional(row, "messages", list), "role", "content")
    return _conversation(row, (*_system(row), *_ending_well(turns)))


def text(row: Row, file: "Layout") -> Example:
    """`{text}`: a raw document."""
    return Example(text=_text(row, "text"), metadata=_optional(row, "metadata", dict))


def trace(row: Row, file: "Layout") -> Example:
    """TRACE (arXiv 2310.06762): `{prompt, answer}`."""
    return _asked(_text(row, "prompt"), _text(row, "answer"), _optional(row, "metadata", dict))


def mtl15(row: Row, file: "Layout") -> Example:
    """The 15 tasks published with O-LoRA (arXiv 2310.14152): `{sentence, label}`, with that paper's prompts.

    The labels are read from `labels.json` beside the file, and the task's instruction from
    `instruction_config.json` in a folder above.
    """
    label = _text(row, "label")
    if label not in file.labels:
        raise DataError(f"the label {label!r} is not in labels.json, which has {list(file.labels)}")
    return _asked(f"{file.instruction}{_text(row, 'sentence')}\nAnswer:", label, {})


def superni(row: Row, file: "Layout") -> Example:
    """Super-NaturalInstructions (arXiv 2204.07705): a task's definition and one instance, without worked examples.

    The prompt is that of the continual-learning benchmark built on it (SAPT, arXiv 2401.08295). The first output is
    the target; all of them are kept as `metadata["answers"]`.
    """
    definition = row.get("Definition")
    first = definition[0] if isinstance(definition, list) and definition else definition
    outputs = row.get("output")
    answers = outputs if isinstance(outputs, list) and outputs else [outputs]
    prompt = (
        f"Definition: {_text({'Definition': first}, 'Definition').strip()}\n\nNow complete the following example -\n"
    )
    targets = [_text({"output": answer}, "output") for answer in answers]
    return _asked(f"{prompt}Input: {_text(row, 'input')}\nOutput:", targets[0], {"answers": targets})


def sharegpt(row: Row, file: "Layout") -> Example:
    """ShareGPT: `{conversations: [{from, value}, ...]}`, with function calls and what they return.

    A list of `tools` is told to the model in the system turn. Where the row is a preference (`chosen`, `rejected`),
    the chosen turn ends the conversation and the rejected one's text is kept as `metadata["rejected"]`.
    """
    chosen = [row["chosen"]] if "chosen" in row else []
    turns = _turns(_optional(row, "conversations", list) + chosen, "from", "value")
    lead = [*_system(row), *(turns[:1] if turns and turns[0].role == "system" else ())]
    system = [message.content for message in lead]
    if row.get("tools") not in (None, "", "[]", []):
        tools = row["tools"] if isinstance(row["tools"], str) else json.dumps(row["tools"], ensure_ascii=False)
        system.append(f"You can call these functions:\n{tools}")
    opening = (Message("system", "\n\n".join(system)),) if system else ()
    spoken = _ending_well(turns[1:] if turns and turns[0].role == "system" else turns)
    rejected = {"rejected": _turns([row["rejected"]], "from", "value")[0].content} if "rejected" in row else {}
    return _conversation({**row, "metadata": {**_optional(row, "metadata", dict), **rejected}}, opening + spoken)


# A row belongs to the first of these whose fields it has.
LAYOUTS: dict[str, tuple[tuple[str, ...], Callable[[Row, "Layout"], Example]]] = {
    "messages": (("messages",), messages),
    "sharegpt": (("conversations",), sharegpt),
    "superni": (("Definition", "input", "output"), superni),
    "prompt_response": (("prompt", "response"), prompt_response),
    "trace": (("prompt", "answer"), trace),
    "mtl15": (("sentence", "label"), mtl15),
    "text": (("text",), text),
}
KNOWN = ", ".join(f"{name} {{{', '.join(fields)}}}" for name, (fields, _) in LAYOUTS.items())


@dataclass(frozen=True)
class Layout:
    """How the rows of one file become examples.

    Args:
        path: the file.
        name: a key of `LAYOUTS`; "auto" goes by each row's fields; a mapping renames fields first, from our name
            to the file's: `{"prompt": "question", "response": "answer"}`.
    """

    path: Path
    name: str | Mapping[str, str] = "auto"

    def __post_init__(self) -> None:
        """Refuse a layout that is not known."""
        if isinstance(self.name, str) and self.name != "auto" and self.name not in LAYOUTS:
            raise ConfigError(f"unknown layout {self.name!r}; known are auto, {KNOWN}.")

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The closed set of labels published in `labels.json` beside the file."""
        beside = self.path.parent / "labels.json"
        if not beside.is_file():
            raise ConfigError(
                f"{self.path}: rows {{sentence, label}} are the layout mtl15, which needs {beside}; add it, or name "
                'the fields: layout = {"prompt": "sentence", "response": "label"}.'
            )
        return tuple(read_json(beside))

    @cached_property
    def instruction(self) -> str:
        """What O-LoRA's code puts before a sentence: the task's instruction and its options."""
        folder = self.path.resolve().parent
        above = [folder, *list(folder.parents)[:3]]
        places = [up / name for up in above for name in ("instruction_config.json", "configs/instruction_config.json")]
        config = next((place for place in places if place.is_file()), None)
        if config is None:
            raise ConfigError(f"{self.path}: no instruction_config.json in {folder} or up to three folders above it.")
        asked = read_json(config).get(folder.parent.name)
        # COPA has none: its sentences hold question and options.
        return f"{asked[0]['instruction']}Option: {', '.join(self.labels)} \n" if asked else ""

    @property
    def closed(self) -> tuple[str, ...]:
        """The labels, where a row's layout has asked for them."""
        labels: tuple[str, ...] = vars(self).get("labels", ())
        return labels

    def example(self, row: object, source: str = "") -> Example:
        """The row as an example.

        Raises:
            DataError: if the row is not what its layout asks for; the message says what is wrong with it.
            ConfigError: if what the layout needs beside the file is missing.
        """
        if not isinstance(row, dict):
            raise DataError(f"is {_kind(row)}, not an object")
        if isinstance(self.name, Mapping):
            row = self._renamed(row, self.name)
        name = self.name if isinstance(self.name, str) and self.name != "auto" else _found(row)
        return replace(LAYOUTS[name][1](row, self), source=source)

    def _renamed(self, row: Row, names: Mapping[str, str]) -> Row:
        missing = [theirs for theirs in names.values() if theirs not in row]
        if missing:
            raise DataError(f"lacks the field {missing[0]!r}; it has {sorted(row)}")
        kept = {ours: row[ours] for ours in ("system", "choices", "metadata") if ours in row}
        return kept | {ours: row[theirs] for ours, theirs in names.items()}


def _found(row: Row) -> str:
    # A table gives each row all columns, so that fields without a value count only where no others tell the layout.
    for there in ({field for field in row if row[field] is not None}, row.keys()):
        name = next((name for name, (fields, _) in LAYOUTS.items() if there >= set(fields)), None)
        if name:
            break
    if name is None:
        raise DataError(f"its fields {sorted(row)} are those of no known layout")
    targets = [field for field in _TARGETS if row.get(field) is not None]
    if name == "text" and targets:
        raise DataError(
            f"has a 'text' and a {targets[0]!r}: to learn the one from the other, name the fields "
            f'(layout = {{"prompt": "text", "response": "{targets[0]}"}}); for raw text say layout = "text"'
        )
    return name
