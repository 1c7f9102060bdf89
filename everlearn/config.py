"""Objects are the config: an expression is read from its syntax tree, and objects turn into plain JSON data and back.

The same text works in Python, on the command line and in a file: `LoRA(rank=16), Replay(fraction=0.1)`. Public names
resolve in `everlearn`, a stranger's by `package.module:Class`. There is no registry: an import path is the name, so
naming one imports its module. Only frozen dataclasses and `chain` are called; nothing is evaluated.
"""

import ast
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING
from pathlib import Path
from typing import Any

from everlearn.arguments import arguments, constructed, default_of, fitted, is_frozen
from everlearn.errors import ConfigError
from everlearn.names import name_of, reference, resolve

CHAIN = "everlearn.method:Chain"
PLAIN = ("", "plain", "sequential")
"""Texts that stand for plain sequential fine-tuning."""
SHOWN = 100
"""Characters of an expression that an error shows."""

_MAPPING = "builtins:dict"  # marks a mapping that would be taken for an object: {"a:b": ...}
_STRINGS = r"""(?P<quote>\"{3}|'{3}|"|')(?:\\.|(?!(?P=quote)).)*(?P=quote)"""
_NAMES = r"(?P<name>\b(?!(?:None|True|False)\b)[^\W\d][\w.]*:[^\W\d][\w.]*)"
_STRING_OR_NAME = re.compile(f"{_STRINGS}|{_NAMES}", re.DOTALL)
# Letters that stand for "." and ":" while `package.module:Class` is parsed: same length, valid in an identifier.
_AS_LETTERS, _FROM_LETTERS = str.maketrans(".:", "\u00b7\u02d0"), str.maketrans("\u00b7\u02d0", ".:")


def parse(text: str) -> Any:
    """The object that an expression describes; a comma list of methods is their chain, a bare class its defaults.

    Raises:
        ConfigError: with the place in the text, where it is no such expression or names what there is not.
    """
    reader, tree = _read(text)
    return reader.whole(tree)


def parse_method(text: str) -> Any:
    """The chain that a comma list of methods describes; nothing, "plain" and "sequential" give the empty chain.

    Raises:
        ConfigError: as `parse`, and where something listed is not a method.
    """
    if text.strip() in PLAIN:
        return resolve("chain")()
    reader, tree = _read(text)
    return reader.chain(tree.elts if isinstance(tree, ast.Tuple) else [tree])


def show(value: Any) -> str:
    """The shortest expression that parses back to a value: what equals its default is left out.

    Raises:
        ConfigError: if no expression describes it.
    """
    if _is_chain(value) and len(value.methods) > 1:
        return ", ".join(map(_shown, value.methods))
    if is_frozen(value):
        raise ConfigError(f"{value!r} is a class; an expression describes what is made of one.")
    return _shown(value)


def dump(value: Any) -> Any:
    """A value as plain JSON data: a frozen dataclass as {"module:Class": {field: ...}}, a function as {name: None}.

    Raises:
        ConfigError: if `restore` could not make the same value of it.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        return [dump(item) for item in value]
    if isinstance(value, Mapping):
        plain = {_text_key(key): dump(item) for key, item in value.items()}
        return {_MAPPING: plain} if _is_tagged(plain) else plain
    if is_frozen(type(value)):
        return {reference(type(value)): {f.name: dump(getattr(value, f.name)) for f in arguments(type(value))}}
    return {reference(value): None}


def restore(plain: Any) -> Any:
    """The inverse of `dump`; a list inside a dataclass is a tuple again unless its annotation says list.

    Raises:
        ConfigError: if a name does not resolve, or an argument is unknown, missing or of a wrong type.
    """
    if isinstance(plain, list):
        return [restore(item) for item in plain]
    if not isinstance(plain, dict):
        return plain
    if not _is_tagged(plain):
        return {key: restore(item) for key, item in plain.items()}
    [(name, content)] = plain.items()
    if content is None:
        return resolve(name)
    if not isinstance(content, dict):
        raise ConfigError(f"{name} holds {content!r}; it takes its arguments as a mapping, or null for itself.")
    given = {key: restore(item) for key, item in content.items()}
    if name == _MAPPING:
        return given
    kind = _require_frozen(name, resolve(name))
    return constructed(kind, {key: fitted(kind, key, item) for key, item in given.items()})


def _is_tagged(plain: Mapping[str, Any]) -> bool:
    return len(plain) == 1 and ":" in next(iter(plain))


def _text_key(key: Any) -> str:
    if not isinstance(key, str):
        raise ConfigError(f"the key {key!r} is a {type(key).__name__}; keys of a mapping have to be text.")
    return key


def _is_chain(value: Any) -> bool:
    return f"{type(value).__module__}:{type(value).__qualname__}" == CHAIN


def _require_frozen(name: str, kind: Any) -> Any:
    if not is_frozen(kind):
        raise ConfigError(f"{name} is not a frozen dataclass; nothing else can be given arguments here.")
    return kind


def _read(text: str) -> tuple["_Reader", ast.expr]:
    text = " ".join(text.split("\n")).strip()
    if not text:
        raise ConfigError("the expression is empty; name a class, as in Replay(fraction=0.1).")
    letters = _STRING_OR_NAME.sub(lambda m: m[0].translate(_AS_LETTERS) if m["name"] else m[0], text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # an invalid escape, for one, would else mean something else than it says
            return _Reader(text, letters), ast.parse(letters, mode="eval").body
    except SyntaxError as error:
        raise ConfigError(_placed(error.msg, text, (error.offset or 1) - 1)) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(_placed(f"this cannot be read ({error})", text, 0)) from None


def _placed(message: str, text: str, column: int) -> str:
    """A message over the part of the text that it is about, with a caret below the place."""
    start = max(0, column - SHOWN // 2)
    return f"{message}\n  {text[start : start + SHOWN]}\n  {' ' * (column - start)}^"


class _Reader:
    """From the syntax tree of one expression to its object, with errors that point into the text."""

    def __init__(self, text: str, letters: str) -> None:
        self.text, self.encoded = text, letters.encode()

    @contextmanager
    def at(self, node: ast.AST) -> Iterator[None]:
        """Give the errors of what is done inside the place of a node."""
        try:
            yield
        except ConfigError as error:
            column = len(self.encoded[: node.col_offset].decode())  # type: ignore[attr-defined]
            raise ConfigError(_placed(str(error), self.text, column)) from error

    def whole(self, tree: ast.expr) -> Any:
        """The object; the chain of them where the text is a list of methods."""
        value = self.value(tree)
        is_list = isinstance(tree, ast.Tuple) and any(is_frozen(type(v)) for v in value)
        return self.chain(tree.elts) if is_list and isinstance(tree, ast.Tuple) else value

    def chain(self, nodes: Sequence[ast.expr]) -> Any:
        """The chain of what the nodes describe."""
        method, members = resolve("Method"), [self.value(node) for node in nodes]
        for node, member in zip(nodes, members, strict=True):
            with self.at(node):
                if not isinstance(member, method):
                    raise ConfigError(f"{ast.unparse(node).translate(_FROM_LETTERS)} is not a method.")
        return resolve("chain")(*members)

    def value(self, node: ast.expr) -> Any:
        """What a node describes."""
        match node:
            case ast.Constant(value=None | str() | int() | float() as constant):
                return constant
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)) if (
                number is not True
            ):
                return -number
            case ast.Tuple(elts=nodes):
                return tuple(self.value(item) for item in nodes)
            case ast.List(elts=nodes):
                return [self.value(item) for item in nodes]
            case ast.Dict():
                return self.mapping(node)
            case ast.Name():
                defaults = ast.copy_location(ast.Call(node, [], []), node)
                return self.call(defaults) if is_frozen(self.named(node)) else self.named(node)
            case ast.Call():
                return self.call(node)
        with self.at(node):
            raise ConfigError("only names, calls, numbers, text, lists, tuples and mappings can stand here.")

    def mapping(self, node: ast.Dict) -> dict[str, Any]:
        """What a literal mapping with text keys describes."""
        found = {}
        for key, value in zip(node.keys, node.values, strict=True):
            with self.at(key or node):
                if not isinstance(key, ast.Constant) or not isinstance(key.value, str):
                    raise ConfigError("a key of a mapping has to be text in quotes.")
            found[key.value] = self.value(value)
        return found

    def named(self, node: ast.Name) -> Any:
        """What a name stands for."""
        with self.at(node):
            return resolve(node.id.translate(_FROM_LETTERS))

    def call(self, node: ast.Call) -> Any:
        """The object that a call describes."""
        with self.at(node):
            if not isinstance(node.func, ast.Name):
                raise ConfigError("only a name can be called.")
        kind, name = self.named(node.func), node.func.id.translate(_FROM_LETTERS)
        if not is_frozen(kind) and not node.keywords and kind is resolve("chain"):
            return self.chain(node.args)
        with self.at(node):
            _require_frozen(name, kind)
        given: dict[str, Any] = {}
        for argument, place, content in self.arguments(node, kind):
            value = self.value(content)
            with self.at(place):
                if argument in given:
                    raise ConfigError(f"{name} is given {argument!r} twice.")
                given[argument] = fitted(kind, argument, value)
        with self.at(node):
            return constructed(kind, given)

    def arguments(self, node: ast.Call, kind: Any) -> Iterator[tuple[str, ast.AST, ast.expr]]:
        """(name, place, content) of each argument of a call."""
        positional = [field.name for field in arguments(kind) if not field.kw_only]
        for index, content in enumerate(node.args):
            with self.at(content):
                if index >= len(positional):
                    raise ConfigError(f"{kind.__name__} takes {len(positional)} arguments without a name at most.")
            yield positional[index], content, content
        for keyword in node.keywords:
            with self.at(keyword):
                if keyword.arg is None:
                    raise ConfigError("name the arguments one by one.")
            yield keyword.arg, keyword, keyword.value


def _shown(value: Any) -> str:
    match value:
        case float() if value != value:
            raise ConfigError("no expression describes a NaN.")
        case None | bool() | int() | float() | str():
            return repr(value).replace("inf", "1e999") if isinstance(value, float) else repr(value)
        case Path():
            return repr(str(value))
        case list():
            return f"[{', '.join(map(_shown, value))}]"
        case tuple():
            return f"({', '.join(map(_shown, value))}{',' * (len(value) == 1)})"
        case Mapping():
            return "{" + ", ".join(f"{_text_key(k)!r}: {_shown(v)}" for k, v in value.items()) + "}"
    return _shown_object(value) if is_frozen(type(value)) else name_of(value)


def _shown_object(value: Any) -> str:
    kind = type(value)
    if _is_chain(value):
        return f"chain({', '.join(map(_shown, value.methods))})"
    texts = []
    for field in arguments(kind):
        content, default = getattr(value, field.name), default_of(field)
        same = content is default or (content == default and _shown(content) == _shown(default))
        if default is MISSING or not same:
            texts.append(f"{field.name}={_shown_argument(kind, field.name, content)}")
    return f"{name_of(kind)}({', '.join(texts)})"


def _shown_argument(kind: Any, name: str, value: Any) -> str:
    """A whole float as the shorter integer where the argument's annotation makes a float of it again."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e16:
        back = fitted(kind, name, int(value))
        return str(int(value)) if repr(back) == repr(value) else repr(value)
    return _shown(value)
