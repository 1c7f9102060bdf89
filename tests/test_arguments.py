from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import pytest

from everlearn.arguments import constructed, fitted, is_frozen
from everlearn.errors import ConfigError

if TYPE_CHECKING:
    from nowhere import Missing


class Speaks(Protocol):
    def speak(self) -> str: ...


@dataclass(frozen=True)
class Known:
    whole: int = 0
    real: float = 0.0
    flag: bool = False
    flag_or_whole: bool | int = 0
    text: str = ""
    maybe: float | None = None
    choice: Literal["a", 1] = "a"
    many: tuple[int, ...] = ()
    pair: tuple[int, str] = (0, "")
    bare: tuple = ()
    rows: list[float] = field(default_factory=list)
    some: Sequence[str] = ()
    table: Mapping[str, float] = field(default_factory=dict)
    free: Any = None
    place: Path = Path()
    text_or_place: str | Path = ""
    call: Callable[[int], int] = abs
    speaker: Speaks | None = None
    inner: "Known | None" = None


@dataclass(frozen=True)
class Half:
    size: int
    unknown: "Missing | None" = None


@dataclass
class Thawed:
    size: int = 1


@pytest.mark.parametrize(
    ("name", "value", "result"),
    [
        ("whole", 3, 3),
        ("real", 3, 3.0),
        ("flag", True, True),
        ("flag_or_whole", True, True),
        ("flag_or_whole", 2, 2),
        ("maybe", None, None),
        ("maybe", 2, 2.0),
        ("choice", 1, 1),
        ("many", [1, 2], (1, 2)),
        ("pair", [1, "x"], (1, "x")),
        ("bare", [1, [2]], (1, (2,))),
        ("rows", (1, 2), [1.0, 2.0]),
        ("some", ["a"], ("a",)),
        ("table", {"a": 1}, {"a": 1.0}),
        ("free", [1, [2, {"a": (3,)}]], (1, (2, {"a": [3]}))),
        ("place", "a/b", Path("a/b")),
        ("text_or_place", "a/b", "a/b"),
        ("call", len, len),
        ("speaker", "cannot be asked", "cannot be asked"),
        ("inner", Known(), Known()),
    ],
)
def test_a_value_is_made_what_its_annotation_says(name: str, value: Any, result: Any) -> None:
    made = fitted(Known, name, value)
    assert made == result
    assert repr(made) == repr(result)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("whole", True),
        ("whole", 1.0),
        ("real", True),
        ("real", "1"),
        ("real", 10**400),
        ("flag", 1),
        ("text", None),
        ("text", ["a"]),
        ("maybe", "x"),
        ("choice", True),
        ("choice", "b"),
        ("many", [1, "x"]),
        ("many", 1),
        ("pair", [1]),
        ("pair", [1, "x", 2]),
        ("bare", 1),
        ("rows", ["x"]),
        ("some", [1]),
        ("table", {"a": "x"}),
        ("table", [1]),
        ("place", 1),
        ("call", 1),
        ("inner", {"whole": 1}),
    ],
)
def test_a_value_of_another_type_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"Known: {name}="):
        fitted(Known, name, value)


def test_annotations_that_cannot_be_resolved_let_everything_pass() -> None:
    assert fitted(Half, "unknown", [1]) == (1,)
    assert constructed(Half, {"size": 1, "unknown": "x"}) == Half(1, "x")


def test_unknown_and_missing_arguments_are_named() -> None:
    with pytest.raises(
        ConfigError, match=r"no argument 'sise': did you mean 'size'\? Its arguments: size \(required\)"
    ):
        fitted(Half, "sise", 1)
    with pytest.raises(ConfigError, match="Half lacks size"):
        constructed(Half, {})


def test_only_frozen_dataclasses_are_frozen() -> None:
    assert is_frozen(Known)
    assert not any(map(is_frozen, (Thawed, Known(), Path, len)))
