"""Examples as rows of a `datasets.Dataset` in TRL's formats, and rows in any of those formats as examples.

    documents        {text}
    conversations    {messages: [{role, content}, ...]}
    completions      {prompt: [{role, content}, ...], completion: [{role, content}]}
    preferences      {prompt: [...], chosen: [...], rejected: [...]}
                     {prompt: [...], completion: [...], label: true or false}

A preference is a pair or a judged answer, as `everlearn.data.preferences` has them. What else an example says goes
along: `choices`, `source` and `origin` in columns of these names, and `metadata` as JSON text, since a table would give
every row the keys of all others.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from everlearn.data.layouts import Layout
from everlearn.data.preferences import verdicts
from everlearn.errors import DataError
from everlearn.examples import Example
from everlearn.names import optional

Row = Mapping[str, Any]
Form = Literal["conversations", "completions", "preferences"]

ABOUT = ("choices", "source", "origin", "metadata")
TURNS = ("text", "messages", "prompt", "completion", "chosen", "rejected")
# A row has the first of these formats whose columns it has values in.
FORMATS = {
    "text": ("text",),
    "preference": ("chosen", "rejected"),
    "judged": ("prompt", "completion", "label"),
    "messages": ("messages",),
    "completion": ("prompt", "completion"),
}


def to_dataset(examples: Iterable[Example], form: Form = "conversations") -> Any:
    """A `datasets.Dataset` of examples, in their order; `examples_of` gives them back.

    Args:
        examples: conversations, or documents.
        form: of conversations; a document is `{text}` whatever the form.

    Raises:
        ConfigError: if `datasets` is not installed.
        DataError: if preferences are asked for, and an example is neither a pair nor a judged answer.
    """
    return table([row_of(example, form) for example in examples])


def table(rows: Sequence[Row]) -> Any:
    """A `datasets.Dataset` of rows.

    Raises:
        ConfigError: if `datasets` is not installed.
    """
    return optional("everlearn.data.hub:table_of", "trl")(rows)


def examples_of(rows: Iterable[Row], source: str = "") -> list[Example]:
    """Examples of the rows of a `datasets.Dataset`, or of any mappings, in one of TRL's formats.

    A prompt or an answer may be plain text, which is one turn of the user's or the assistant's, and a preference's
    answers may be whole conversations in place of a prompt. Columns beside those of the format are kept as metadata.

    Args:
        rows: in the formats that this module's text lists.
        source: where the rows are from, for those that do not say it themselves.

    Raises:
        DataError: if a row has none of the formats, with the number of the row. TRL's prompts without an answer are
            such rows, since an example ends with what the assistant is to say.
    """
    found = []
    for number, row in enumerate(rows, start=1):
        place = row.get("source") or f"{source or 'rows'}:{number}"
        try:
            found.append(_example(row, place))
        except DataError as error:
            raise DataError(f"{place}: {error}") from error
    return found


def row_of(example: Example, form: Form = "conversations") -> dict[str, Any]:
    """An example as one row; see `to_dataset`."""
    columns, metadata = _columns(example, form)
    about = {"choices": list(example.choices), "source": example.source, "origin": example.origin}
    return columns | about | {"metadata": json.dumps(metadata)}


def _columns(example: Example, form: Form) -> tuple[dict[str, Any], dict[str, Any]]:
    """The columns that TRL reads, and what of the metadata they do not say."""
    metadata = dict(example.metadata)
    if example.text:
        return {"text": example.text}, metadata
    turns = [{"role": m.role, "content": m.content} for m in example.messages]
    if form == "conversations":
        return {"messages": turns}, metadata
    asked = {"prompt": turns[:-1]}
    if form == "completions":
        return asked | {"completion": turns[-1:]}, metadata
    (_, good), *others = verdicts(example)
    if not others:
        return asked | {"completion": turns[-1:], "label": good}, {n: metadata[n] for n in metadata if n != "good"}
    ((rejected, _),) = others
    return asked | {"chosen": turns[-1:], "rejected": _spoken(rejected, "assistant")}, metadata


def _example(row: Row, source: str) -> Example:
    known = {name: row[name] for name in row if row[name] is not None}
    kind = next((kind for kind, columns in FORMATS.items() if known.keys() >= set(columns)), None)
    if kind is None:
        raise DataError(_unread(known))
    said = {*ABOUT, *TURNS, *FORMATS[kind]}
    metadata = _metadata(known) | {name: known[name] for name in known if name not in said}
    origin, choices = known.get("origin", ""), list(known.get("choices", []))
    if kind == "text":
        return Example(text=known["text"], metadata=metadata, source=source, origin=origin)
    if kind in ("preference", "judged"):
        example = Layout(Path(source), kind).example(known | {"metadata": metadata, "system": None}, source)
        if choices and set(choices) != set(example.choices):
            raise DataError(f"its choices {choices} are not the answers that it compares; leave them out")
        return replace(example, choices=tuple(choices) or example.choices, origin=origin)
    turns = list(known["messages"]) if kind == "messages" else _answered(known)
    plain = {"messages": turns, "metadata": metadata, "choices": choices}
    return replace(Layout(Path(source), "messages").example(plain, source), origin=origin)


def _unread(row: Row) -> str:
    if "prompt" in row and not {"completion", "chosen", "rejected"} & row.keys():
        return (
            f"its columns {sorted(row)} hold a prompt and no answer, and an example ends with what the assistant is to "
            "say. Rename the column with the right answer to 'completion'"
        )
    formats = ", ".join(f"{{{', '.join(columns)}}}" for columns in FORMATS.values())
    return f"its columns {sorted(row)} are none of TRL's formats: {formats}"


def _answered(row: Row) -> list[Any]:
    return _spoken(row["prompt"], "user") + _spoken(row["completion"], "assistant")


def _spoken(turns: Any, author: str) -> list[Any]:
    return [{"role": author, "content": turns}] if isinstance(turns, str) else list(turns)


def _metadata(row: Row) -> dict[str, Any]:
    found = row.get("metadata", {})
    return dict(json.loads(found) if isinstance(found, str) else found)
