"""Calls of tools in a model's answer, in the forms that models are trained to write them in."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

TAGGED = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
FENCED = re.compile(r"```(?:json|tool_call)?[ \t]*\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Call:
    """A call that a model asks for.

    Args:
        name: of the tool.
        arguments: by name.
        error: what is wrong with how it is written; it cannot be made then.
    """

    name: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""


Parser = Callable[[str], tuple[Call, ...]]
"""The calls in an answer, in order; none where it asks for none."""


def hermes(text: str) -> tuple[Call, ...]:
    """Calls in tags, `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`, as Hermes and Qwen write them.

    A tag that is never closed reaches to the end of the answer. One that holds no call is a call with an error.
    """
    return tuple(call for content in TAGGED.findall(text) for call in _read(content))


def plain_json(text: str) -> tuple[Call, ...]:
    """Calls as JSON: the whole answer, as Llama 3 writes them, or in fences of three backticks.

    Other JSON, which lacks a name or arguments, is an answer and no call; so is what is no JSON.
    """
    pieces = FENCED.findall(text) or [text]
    return tuple(call for piece in pieces for call in _read(piece) if not call.error)


def any_form(text: str) -> tuple[Call, ...]:
    """Calls in tags where there is a tag, else as JSON."""
    return hermes(text) or plain_json(text)


def _read(content: str) -> tuple[Call, ...]:
    """The call that a JSON text describes, or all of a list of them."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:  # no JSON, or a number or a nesting that Python does not read
        return (Call(error=f"a call has to be JSON: {error}"),)
    return tuple(_call(item) for item in (found if found and isinstance(found, list) else [found]))


def _call(found: Any) -> Call:
    if isinstance(found, dict) and isinstance(found.get("function"), dict):
        found = found["function"]
    arguments = found.get("arguments", found.get("parameters")) if isinstance(found, dict) else None
    if isinstance(arguments, str):  # some models write their JSON as a text inside the JSON
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            arguments = None
    if not isinstance(arguments, dict) or not isinstance(found.get("name"), str):
        return Call(error='a call has a "name", which is text, and "arguments" by name.')
    return Call(found["name"], arguments)
