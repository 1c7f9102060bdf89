"""What a frozen dataclass may be given: its arguments by name and annotation, since dataclasses do not check them."""

import inspect
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from everlearn.errors import ConfigError
from everlearn.names import did_you_mean

ANYTHING: Any = Union[tuple, Any]  # noqa: UP007 (the operator does not take Any)
"""No type in particular, but sequences are tuples, so that frozen data holds frozen data."""


def is_frozen(kind: Any) -> bool:
    """Whether a thing is a frozen dataclass: the one kind of class that a config may call."""
    return isinstance(kind, type) and is_dataclass(kind) and kind.__dataclass_params__.frozen  # type: ignore[attr-defined]


def arguments(kind: Any) -> list[Field[Any]]:
    """The fields that a dataclass's constructor takes, in order."""
    return [field for field in fields(kind) if field.init]


def default_of(field: Field[Any]) -> Any:
    """A field's default; `dataclasses.MISSING` where it has none."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def hint_of(kind: Any, name: str) -> Any:
    """A field's annotation; ANYTHING where it is Any or names what only a type checker imports."""
    try:
        hint = get_type_hints(kind)[name]
    except NameError:
        return ANYTHING
    return ANYTHING if hint is Any else hint


def fitted(kind: Any, name: str, value: Any) -> Any:
    """The value as the annotation of the argument has it: a list as a tuple, a whole number as a float.

    Raises:
        ConfigError: if there is no such argument, or it is of another type.
    """
    known = [field.name for field in arguments(kind)]
    if name not in known:
        hint = did_you_mean(name, known) or "."
        raise ConfigError(f"{kind.__name__} has no argument {name!r}{hint} Its arguments: {_described(kind)}.")
    hint = hint_of(kind, name)
    try:
        return _fit(value, hint)
    except (TypeError, OverflowError):
        wanted = inspect.formatannotation(hint).replace("typing.", "")
        if get_origin(hint) is Literal:
            wanted = f"one of {', '.join(map(repr, get_args(hint)))}"
        raise ConfigError(f"{kind.__name__}: {name}={value!r} does not fit; give {wanted}.") from None


def constructed(kind: Any, given: Mapping[str, Any]) -> Any:
    """The object of these fitted arguments.

    Raises:
        ConfigError: if one is missing, or the class refuses their values.
    """
    missing = [f.name for f in arguments(kind) if f.name not in given and default_of(f) is MISSING]
    if missing:
        raise ConfigError(f"{kind.__name__} lacks {', '.join(missing)}. Its arguments: {_described(kind)}.")
    try:
        return kind(**given)
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error)) from error


def _described(kind: Any) -> str:
    texts = []
    for field in arguments(kind):
        default = default_of(field)
        texts.append(f"{field.name} (required)" if default is MISSING else f"{field.name}={default!r}")
    return ", ".join(texts) or "none"


def _fit(value: Any, hint: Any) -> Any:
    """The value as an annotation has it; TypeError where it does not fit."""
    origin, inner = get_origin(hint) or hint, get_args(hint)
    if origin in (Union, types.UnionType):
        return _fit_any(value, inner)
    if origin is Literal:
        return _require(value, any(type(value) is type(choice) and value == choice for choice in inner))
    if isinstance(value, list | tuple):
        return _fit_items(value, origin, inner)
    if isinstance(value, Mapping) and _accepts(origin, value):
        key, item = inner or (Any, Any)
        return {_fit(k, key): _fit(v, item) for k, v in value.items()}
    return _fit_one(value, origin)


def _fit_any(value: Any, hints: tuple[Any, ...]) -> Any:
    """By the first member of a union that takes it; its own type goes before one it would have to be turned into."""
    for hint in sorted(hints, key=lambda h: h is not type(value)):
        try:
            return _fit(value, hint)
        except TypeError:
            continue
    raise TypeError


def _fit_items(value: Sequence[Any], origin: Any, inner: tuple[Any, ...]) -> Any:
    if origin is Any or origin is list:
        return [_fit(item, inner[0] if inner else Any) for item in value]
    _require(value, _accepts(origin, ()))
    if origin is tuple and inner and inner[-1] is not Ellipsis:
        _require(value, len(value) == len(inner))
        return tuple(_fit(item, hint) for item, hint in zip(value, inner, strict=True))
    return tuple(_fit(item, inner[0] if inner else ANYTHING) for item in value)


def _fit_one(value: Any, kind: Any) -> Any:
    if kind is float:
        return float(_require(value, type(value) in (int, float)))
    if kind is int:
        return _require(value, type(value) is int)
    if kind is Path:
        return Path(_require(value, isinstance(value, str | Path)))
    return _require(value, _accepts(kind, value))


def _accepts(kind: Any, value: Any) -> bool:
    """Whether a value is of a kind; what cannot be asked at run time (some protocols, type variables) takes all."""
    try:
        return kind is Any or isinstance(value, type(None) if kind is None else kind)
    except TypeError:
        return True


def _require(value: Any, fits: bool) -> Any:
    if not fits:
        raise TypeError
    return value
