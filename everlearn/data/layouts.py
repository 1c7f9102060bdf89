"""From one row of a file to one example: our own row shapes, and the layouts that benchmarks are published in."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from everlearn.data.fields import Row, asked, conversation, ending_well, kind, optional, system, text_in, turns_in
from everlearn.data.preferences import judged, pair, preference
from everlearn.errors import ConfigError, DataError
from everlearn.examples import Example, Message
from everlearn.files import read_json

# Fields that make a row with a `text` more than a document.
_TARGETS = ("label", "labels", "answer", "response", "completion", "target", "output")


def prompt_response(row: Row, file: "Layout") -> Example:
    """`{prompt, response}`, and optionally `system`, `choices`, `metadata`."""
    turns = (Message("user", text_in(row, "prompt")), Message("assistant", text_in(row, "response")))
    return conversation(row, (*system(row), *turns))


def messages(row: Row, file: "Layout") -> Example:
    """`{messages: [{role, content}, ...]}`, and optionally `choices`, `metadata`; ends with the assistant."""
    turns = turns_in(optional(row, "messages", list), "role", "content")
    return conversation(row, (*system(row), *ending_well(turns)))


def text(row: Row, file: "Layout") -> Example:
    """`{text}`: a raw document."""
    return Example(text=text_in(row, "text"), metadata=optional(row, "metadata", dict))


def trace(row: Row, file: "Layout") -> Example:
    """TRACE (arXiv 2310.06762): `{prompt, answer}`."""
    return asked(text_in(row, "prompt"), text_in(row, "answer"), optional(row, "metadata", dict))


def mtl15(row: Row, file: "Layout") -> Example:
    """The 15 tasks published with O-LoRA (arXiv 2310.14152): `{sentence, label}`, with that paper's prompts.

    The labels are read from `labels.json` beside the file, and the task's instruction from
    `instruction_config.json` in a folder above.
    """
    label = text_in(row, "label")
    if label not in file.labels:
        raise DataError(f"the label {label!r} is not in labels.json, which has {list(file.labels)}")
    return asked(f"{file.instruction}{text_in(row, 'sentence')}\nAnswer:", label, {})


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
        f"Definition: {text_in({'Definition': first}, 'Definition').strip()}\n\nNow complete the following example -\n"
    )
    targets = [text_in({"output": answer}, "output") for answer in answers]
    return asked(f"{prompt}Input: {text_in(row, 'input')}\nOutput:", targets[0], {"answers": targets})


def sharegpt(row: Row, file: "Layout") -> Example:
    """ShareGPT: `{conversations: [{from, value}, ...]}`, with function calls and what they return.

    A list of `tools` is told to the model in the system turn. A row may be a preference: see `sharegpt_preference`.
    """
    return conversation(row, ending_well(_spoken(row)))


def sharegpt_preference(row: Row, file: "Layout") -> Example:
    """ShareGPT with `chosen` and `rejected`, two answers to the conversation, as one turn `{from, value}` each."""
    chosen, rejected = (ending_well(turns_in([row[name]], "from", "value"))[0] for name in ("chosen", "rejected"))
    return pair(_spoken(row), chosen.content, rejected.content, optional(row, "metadata", dict))


def _spoken(row: Row) -> tuple[Message, ...]:
    """The turns, behind a system turn that tells of the tools."""
    turns = turns_in(optional(row, "conversations", list), "from", "value")
    leads = turns[:1] if turns and turns[0].role == "system" else ()
    told = [message.content for message in (*system(row), *leads)]
    if row.get("tools") not in (None, "", "[]", []):
        tools = row["tools"] if isinstance(row["tools"], str) else json.dumps(row["tools"], ensure_ascii=False)
        told.append(f"You can call these functions:\n{tools}")
    return (*((Message("system", "\n\n".join(told)),) if told else ()), *turns[len(leads) :])


# A row belongs to the first of these whose fields it has.
LAYOUTS: dict[str, tuple[tuple[str, ...], Callable[[Row, "Layout"], Example]]] = {
    "sharegpt_preference": (("conversations", "chosen", "rejected"), sharegpt_preference),
    "preference": (("chosen", "rejected"), preference),
    "judged": (("prompt", "completion", "label"), judged),
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
            raise DataError(f"is {kind(row)}, not an object")
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
