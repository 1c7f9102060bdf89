"""Examples as rows of a `datasets.Dataset` in TRL's formats, and rows in any of those formats as examples.

    documents        {text}
    conversations    {messages: [{role, content}, ...]}
    completions      {prompt: [{role, content}, ...], completion: [{role, content}]}
    preferences      {prompt: [...], chosen: [...], rejected: [...]}

What else an example says goes along: `choices`, `source` and `origin` in columns of these names, and `metadata` as JSON
text, since a table would give every row the keys of all others. A preference's rejected answer is
`metadata["rejected"]`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from everlearn.data.layouts import Layout
from everlearn.errors import DataError
from everlearn.examples import Example
from everlearn.names import optional

Row = Mapping[str, Any]
Form = Literal["conversations", "completions", "preferences"]

ABOUT = ("choices", "source", "origin", "metadata")
TURNS = ("text", "messages", "prompt", "completion", "chosen", "rejected")


def to_dataset(examples: Iterable[Example], form: Form = "conversations") -> Any:
    """A `datasets.Dataset` of examples, in their order; `examples_of` gives them back.

    Args:
        examples: conversations, or documents.
        form: of conversations; a document is `{text}` whatever the form.

    Raises:
        ConfigError: if `datasets` is not installed.
        DataError: if preferences are asked for, and an example has no `metadata["rejected"]`.
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

    A prompt or an answer may be plain text, which is one turn of the user's or the assistant's. Columns beside those of
    the format are kept as metadata.

    Args:
        rows: in the formats that this module's text lists.
        source: where the rows are from, for those that do not say it themselves.

    Raises:
        DataError: if a row has none of the formats, with the number of the row.
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
    about = {"choices": list(example.choices), "source": example.source, "origin": example.origin}
    metadata = dict(example.metadata)
    if example.text:
        return {"text": example.text} | about | {"metadata": json.dumps(metadata)}
    turns = [{"role": m.role, "content": m.content} for m in example.messages]
    if form == "conversations":
        return {"messages": turns} | about | {"metadata": json.dumps(metadata)}
    if form == "completions":
        return {"prompt": turns[:-1], "completion": turns[-1:]} | about | {"metadata": json.dumps(metadata)}
    if "rejected" not in metadata:
        raise DataError(
            f'{example.source or example.key} is no preference: it has no metadata["rejected"]. Say there which answer '
            "is the worse one."
        )
    rejected = [{"role": "assistant", "content": metadata.pop("rejected")}]
    pair = {"prompt": turns[:-1], "chosen": turns[-1:], "rejected": rejected}
    return pair | about | {"metadata": json.dumps(metadata)}


def _example(row: Row, source: str) -> Example:
    known = {name: row[name] for name in row if row[name] is not None}
    more = {name: known[name] for name in known if name not in (*ABOUT, *TURNS)}
    metadata = _metadata(known) | more
    if "text" in known:
        return Example(text=known["text"], metadata=metadata, source=source, origin=known.get("origin", ""))
    turns = _turns(known)
    if "rejected" in known:
        metadata["rejected"] = _spoken(known["rejected"], "assistant")[-1]["content"]
    plain = {"messages": turns, "metadata": metadata, "choices": list(known.get("choices", []))}
    example = Layout(Path(source), "messages").example(plain, source)
    return replace(example, origin=known.get("origin", ""))


def _turns(row: Row) -> list[Any]:
    """The turns of a row, whichever columns hold them."""
    if "messages" in row:
        return list(row["messages"])
    answer = next((row[name] for name in ("completion", "chosen") if name in row), None)
    if answer is None:
        raise DataError(f"its columns {sorted(row)} are none of TRL's formats: {', '.join(TURNS)}")
    return _spoken(row.get("prompt", []), "user") + _spoken(answer, "assistant")


def _spoken(turns: Any, author: str) -> list[Any]:
    return [{"role": author, "content": turns}] if isinstance(turns, str) else list(turns)


def _metadata(row: Row) -> dict[str, Any]:
    found = row.get("metadata", {})
    return dict(json.loads(found) if isinstance(found, str) else found)
