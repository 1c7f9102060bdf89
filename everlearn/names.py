"""Names for classes and functions, and back: an import path is the registry."""

import difflib
import pkgutil
import types
from collections.abc import Callable, Collection
from typing import Any

from everlearn.errors import ConfigError

ROOT = "everlearn"


def public_names() -> list[str]:
    """The names that need no import path."""
    return list(pkgutil.resolve_name(f"{ROOT}:__all__"))


def did_you_mean(name: str, known: Collection[str]) -> str:
    """`: did you mean 'X'?` where a known name is near, else nothing."""
    by_lower = {k.lower(): k for k in known}
    close = difflib.get_close_matches(name, known, n=1)
    close = close or [by_lower[k] for k in difflib.get_close_matches(name.lower(), by_lower, n=1)]
    return f": did you mean {close[0]!r}?" if close else ""


def resolve(name: str) -> Any:
    """The thing of a public name, or of `package.module:name`.

    Raises:
        ConfigError: if there is no such thing, or its module cannot be imported.
    """
    if ":" not in name and name not in public_names():
        hint = did_you_mean(name, public_names()) or "."
        raise ConfigError(f"{ROOT} has no {name!r}{hint} What is not its own is written package.module:Class.")
    full = name if ":" in name else f"{ROOT}:{name}"
    try:
        return pkgutil.resolve_name(full)
    except ImportError as error:
        raise ConfigError(f"{name} cannot be imported ({error}); is its package installed?") from error
    except (AttributeError, ValueError) as error:
        module, _, attribute = full.partition(":")
        known = dir(pkgutil.resolve_name(module)) if isinstance(error, AttributeError) else []
        raise ConfigError(f"{name} leads nowhere ({error}){did_you_mean(attribute, known) or '.'}") from error


def optional(name: str, extra: str) -> Callable[..., Any]:
    """A function of a module that needs what one of the package's extras installs.

    Raises:
        ConfigError: if that is not installed; says how to install it.
    """
    try:
        found: Callable[..., Any] = pkgutil.resolve_name(name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"this needs {error.name!r}: pip install 'everlearn[{extra}]'.") from error
    return found


def reference(thing: Any) -> str:
    """`module:name` of a class or function.

    Raises:
        ConfigError: if that name does not lead back to it.
    """
    if isinstance(thing, type | types.FunctionType | types.BuiltinFunctionType):
        name = f"{thing.__module__}:{thing.__qualname__}"
        if "<" not in name and resolve(name) is thing:
            return name
    raise ConfigError(
        f"{thing!r} has no plain form; use numbers, text, lists, mappings, frozen dataclasses, "
        "and classes and functions that stand at the top of a module."
    )


def name_of(thing: Any) -> str:
    """The shortest name that leads to a class or function.

    Raises:
        ConfigError: if none does.
    """
    path = reference(thing)
    public = thing.__name__ in public_names() and resolve(thing.__name__) is thing
    return str(thing.__name__) if public else path
