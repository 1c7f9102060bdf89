"""YAML files checked against a JSON schema; whatever is wrong is told with its line and with what is allowed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from everlearn.errors import ConfigError

Keys = tuple[str | int, ...]
_KINDS: Mapping[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}
_IN_WORDS = {"object": "a mapping", "array": "a list", "string": "a text", "boolean": "true or false"}


@dataclass(frozen=True)
class CheckedYaml:
    """Plain data of a YAML file, and where each value of it stands.

    Args:
        path: the file.
        data: its content.
        lines: the line of each value, by the keys and places that lead to it; 0 where it stands in no line.
    """

    path: Path
    data: Any
    lines: Mapping[Keys, int]

    def where(self, *keys: str | int) -> str:
        """The place of a value in words, as "stream.yaml:12: experiences[2].metric"."""
        known = next(keys[:end] for end in range(len(keys), -1, -1) if keys[:end] in self.lines)
        dotted = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).lstrip(".")
        line = f":{self.lines[known]}" if self.lines[known] else ""
        return f"{self.path}{line}" + (f": {dotted}" if dotted else "")


def read_yaml(path: Path, schema: Mapping[str, Any]) -> CheckedYaml:
    """A YAML file, read by the safe loader.

    Args:
        path: the file.
        schema: JSON schema; of its words, those that `violations` knows.

    Raises:
        ConfigError: if the file cannot be read, is not YAML, holds a key twice, or breaks the schema; says all that
            is wrong, each with its line.
    """
    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8-sig"))
        node = loader.get_single_node()
        found = _lines(node, path) if node else {}
        data = loader.construct_document(node) if node else None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}.") from error
    if node is None:
        raise ConfigError(f"{path} is empty; it needs {', '.join(schema.get('required', ['content']))}.")
    document = CheckedYaml(path, data, found)
    wrong = [f"{document.where(*keys)}: {what}" for keys, what in violations(document.data, schema, schema)]
    if wrong:
        raise ConfigError("\n".join(wrong))
    return document


def _lines(root: yaml.Node, path: Path) -> dict[Keys, int]:
    """The line of each value; a node that an alias repeats is visited once."""
    found: dict[Keys, int] = {}
    visited: set[int] = set()
    pending: list[tuple[Keys, int, yaml.Node]] = [((), root.start_mark.line + 1, root)]
    while pending:
        keys, line, node = pending.pop()
        found[keys] = line
        if id(node) in visited:
            continue
        visited.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            pending += [((*keys, i), child.start_mark.line + 1, child) for i, child in enumerate(node.value)]
        elif isinstance(node, yaml.MappingNode):
            here: set[str] = set()
            for key, child in node.value:
                name = str(key.value)
                if name in here:
                    raise ConfigError(f"{path}:{key.start_mark.line + 1}: the key {name!r} stands twice; keep one.")
                here.add(name)
                pending.append(((*keys, name), key.start_mark.line + 1, child))
    return found


def violations(
    value: Any, schema: Mapping[str, Any], root: Mapping[str, Any], keys: Keys = ()
) -> Iterator[tuple[Keys, str]]:
    """What breaks a JSON schema, as (keys that lead there, what is wrong and what is allowed).

    Knows $ref into $defs, anyOf, enum, type, properties, required, additionalProperties, items, minItems, minLength,
    minimum and maximum.
    """
    schema = {**root["$defs"][schema["$ref"].rpartition("/")[2]], **schema} if "$ref" in schema else schema
    if "anyOf" in schema:
        yield from _any_of(value, schema["anyOf"], root, keys)
    elif "enum" in schema and value not in schema["enum"]:
        yield keys, f"{value!r} is not known{_near(value, schema['enum'])}; use one of {', '.join(schema['enum'])}."
    elif "type" in schema and not _is(value, schema["type"]):
        hint = "; put it in quotes" if schema["type"] == "string" and not isinstance(value, dict | list) else ""
        yield keys, f"{value!r} is not {_words(schema)}{hint}."
    elif isinstance(value, dict):
        yield from _mapping(value, schema, root, keys)
    elif isinstance(value, list):
        yield from _list(value, schema, root, keys)
    else:
        yield from ((keys, what) for what in _bounds(value, schema))


def _list(
    value: list[Any], schema: Mapping[str, Any], root: Mapping[str, Any], keys: Keys
) -> Iterator[tuple[Keys, str]]:
    if len(value) < schema.get("minItems", 0):
        yield keys, f"has {len(value)} items; {schema['minItems']} or more are needed."
    for place, item in enumerate(value if "items" in schema else ()):
        yield from violations(item, schema["items"], root, (*keys, place))


def _any_of(
    value: Any, branches: list[Mapping[str, Any]], root: Mapping[str, Any], keys: Keys
) -> Iterator[tuple[Keys, str]]:
    """Nothing where a branch fits; else what the branch that comes nearest says."""
    tried = [list(violations(value, branch, root, keys)) for branch in branches]
    if all(tried):
        deeper = [found for found in tried if any(len(inner) > len(keys) for inner, _ in found)]
        if deeper:
            yield from min(deeper, key=lambda found: (len(found), not any("did you mean" in what for _, what in found)))
        else:
            yield keys, " Or: ".join(dict.fromkeys(what for found in tried for _, what in found))


def _mapping(
    value: dict[Any, Any], schema: Mapping[str, Any], root: Mapping[str, Any], keys: Keys
) -> Iterator[tuple[Keys, str]]:
    known = schema.get("properties", {})
    for key in schema.get("required", ()):
        if key not in value:
            meaning = known.get(key, {}).get("description", "")
            yield keys, f"{key!r} is missing" + (f": {meaning}" if meaning else ".")
    for key, item in value.items():
        other = schema.get("additionalProperties", True)
        if key in known:
            yield from violations(item, known[key], root, (*keys, key))
        elif other is False:
            yield (*keys, str(key)), f"unknown key{_near(key, known)}; known are {', '.join(known)}."
        elif other is not True:
            yield from violations(item, other, root, (*keys, str(key)))


def _near(value: object, known: Any) -> str:
    near = get_close_matches(str(value), [str(name) for name in known], n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _is(value: object, kind: str) -> bool:
    # To Python true is an integer; in a file it is not.
    return isinstance(value, _KINDS[kind]) and (kind == "boolean" or not isinstance(value, bool))


def _words(schema: Mapping[str, Any]) -> str:
    kind = schema["type"]
    least, most = schema.get("minimum"), schema.get("maximum")
    bounds = "" if least is None else f" of {least} or more" if most is None else f" from {least} to {most}"
    named = _IN_WORDS.get(kind, f"a{'n' if kind == 'integer' else ''} {kind}")
    keys = f" with the keys {', '.join(schema['properties'])}" if kind == "object" and "properties" in schema else ""
    return named + keys + bounds


def _bounds(value: Any, schema: Mapping[str, Any]) -> Iterator[str]:
    if isinstance(value, str):
        if len(value) < schema.get("minLength", 0):
            yield "is empty; give a text."
    elif not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        yield f"{value} is not {_words(schema)}."
