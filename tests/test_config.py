import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import everlearn
from everlearn.arguments import is_frozen
from everlearn.config import dump, parse, parse_method, restore, show
from everlearn.errors import ConfigError
from everlearn.method import Chain, Method, chain
from everlearn.methods.anchors import EWC, L2SP
from everlearn.methods.replay import Replay
from everlearn.objectives.next_token import NextToken

HERE = __name__


@dataclass(frozen=True)
class Leaf(Method):
    size: int = 3
    rate: float = 0.5
    mode: Literal["slow", "fast"] = "slow"
    parts: tuple[str, ...] = ()
    either: int | float | str | None = None
    on: bool = False


@dataclass(frozen=True)
class Tree:
    leaf: Leaf
    leaves: tuple[Leaf, ...] = ()
    pair: tuple[int, tuple[float, ...]] = (1, ())
    rows: list[int] = field(default_factory=list)
    table: Mapping[str, Any] = field(default_factory=dict)
    anything: Any = None
    place: Path | None = None


@dataclass
class Thawed:
    size: int = 1


class Outer:
    @dataclass(frozen=True)
    class Inner:
        size: int = 1


def visit() -> None:
    raise AssertionError("an expression never calls a function")


TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
FLOATS = st.floats(allow_nan=False)
SCALARS = st.none() | st.booleans() | st.integers() | FLOATS | TEXT
TABLES = st.dictionaries(
    TEXT, st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3), max_leaves=5), max_size=3
)
ANYTHING = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=5)
LEAVES = st.builds(
    Leaf,
    st.integers(),
    FLOATS,
    st.sampled_from(["slow", "fast"]),
    st.lists(TEXT, max_size=3).map(tuple),
    st.none() | st.integers() | FLOATS | TEXT,
    st.booleans(),
)
TREES = st.builds(
    Tree,
    LEAVES,
    st.lists(LEAVES, max_size=2).map(tuple),
    st.tuples(st.integers(), st.lists(FLOATS, max_size=2).map(tuple)),
    st.lists(st.integers(), max_size=3),
    TABLES,
    ANYTHING,
    st.none() | st.sampled_from([Path("a/b"), Path("c d.json")]),
)
VALUES = LEAVES | TREES | TABLES | st.lists(SCALARS, max_size=3) | SCALARS


@settings(deadline=None)  # a busy machine is no defect
@given(VALUES)
def test_what_is_dumped_is_restored_through_json(value: Any) -> None:
    back = restore(json.loads(json.dumps(dump(value))))
    assert back == value
    assert repr(back) == repr(value)


@settings(deadline=None)  # a busy machine is no defect
@given(VALUES)
def test_what_is_shown_parses_back(value: Any) -> None:
    back = parse(show(value))
    assert back == value
    assert repr(back) == repr(value)


@settings(deadline=None)  # a busy machine is no defect
@given(st.lists(LEAVES, max_size=4))
def test_a_shown_chain_parses_back(members: list[Leaf]) -> None:
    method = chain(*members)
    assert parse(show(method)) == parse_method(show(method)) == method
    assert restore(json.loads(json.dumps(dump(method)))) == method


def test_public_names_and_strangers_names_make_the_same_object() -> None:
    assert parse("EWC(strength=3)") == parse("everlearn.methods.anchors:EWC(strength=3)") == EWC(strength=3.0)


def test_positional_arguments_go_to_the_fields_in_order() -> None:
    assert parse(f"{HERE}:Leaf(7, 0.25, 'fast')") == Leaf(7, 0.25, "fast")


def test_a_bare_class_means_its_defaults() -> None:
    assert parse("NextToken") == parse("NextToken()") == NextToken()
    assert parse(f"{HERE}:Tree({HERE}:Leaf, leaves=[{HERE}:Leaf])") == Tree(Leaf(), (Leaf(),))


def test_a_nested_class_and_a_function_are_named() -> None:
    assert parse(f"{HERE}:Outer.Inner(2)") == Outer.Inner(2)
    assert parse(show(visit)) is visit
    assert restore(dump(visit)) is visit
    assert restore(dump(Leaf)) is Leaf


def test_a_comma_list_is_a_chain() -> None:
    expected = chain(Replay(fraction=0.2), EWC(strength=100.0), L2SP())
    assert parse("Replay(fraction=0.2), EWC(strength=100), L2SP()") == expected
    assert parse_method("Replay(0.2), chain(EWC(strength=100), L2SP)") == expected
    assert parse_method("Replay(fraction=0.2),\n  EWC(strength=100),\n  L2SP(),") == expected


@pytest.mark.parametrize("text", ["", "  ", "plain", "sequential", "chain()", " plain\n"])
def test_no_method_is_the_empty_chain(text: str) -> None:
    assert parse_method(text) == Chain(())


def test_one_method_is_a_chain_of_one_only_where_a_method_is_asked_for() -> None:
    assert parse("L2SP()") == L2SP()
    assert parse_method("L2SP()") == chain(L2SP())


def test_defaults_are_left_out_and_whole_floats_short() -> None:
    assert show(EWC()) == "EWC()"
    assert show(EWC(strength=250.0, decay=0.5)) == "EWC(strength=250, decay=0.5)"
    assert show(chain(Replay(), L2SP(strength=2.0))) == "Replay(), L2SP(strength=2)"
    assert show(chain()) == "chain()"
    assert show(Leaf(either=1.0, rate=1.0)) == f"{HERE}:Leaf(rate=1, either=1.0)"


def test_values_are_made_what_the_annotation_says() -> None:
    leaf = parse(f"{HERE}:Leaf(rate=1, parts=['a', 'b'])")
    assert leaf == Leaf(rate=1.0, parts=("a", "b"))
    assert type(leaf.rate) is float
    assert parse(f"{HERE}:Tree({HERE}:Leaf, place='a/b')").place == Path("a/b")
    assert parse(f"{HERE}:Leaf(rate=-1e999)").rate == -math.inf


def test_colons_and_dots_in_text_stay() -> None:
    assert parse("['a.b:c', \"it's x.y:z\", {'k.l:m': 'n.o:p'}]") == ["a.b:c", "it's x.y:z", {"k.l:m": "n.o:p"}]


def test_a_mapping_that_looks_like_an_object_is_kept_apart() -> None:
    for mapping in ({f"{HERE}:visit": None}, {"a:b": {"c": 1}}, {"builtins:dict": {}}):
        assert restore(dump(mapping)) == mapping


@pytest.mark.parametrize(
    "text",
    [
        "1 + 1",
        "not True",
        "-True",
        "+1",
        "Replay().fraction",
        "Replay.end",
        "[x for x in (1, 2)]",
        "f'{1}'",
        "lambda: 1",
        "1 if True else 2",
        "[1][0]",
        "{1, 2}",
        "b'x'",
        "1j",
        "...",
        "(x := 1)",
        "{**{}}",
        "{1: 2}",
        "[*[1]]",
        "Replay(*[1])",
        "Replay(**{'fraction': 0.1})",
        "Replay()()",
        "'C:\\data'",
        "(((",
        "a b",
        "-" * 20_000 + "1",
        "[" * 300,
        "x\0",
        "9" * 5000,
    ],
)
def test_other_syntax_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse(text)


@pytest.mark.parametrize("text", [f"{HERE}:visit()", "os:getcwd()", f"{HERE}:Thawed()", "builtins:dict(a=1)", "run()"])
def test_nothing_but_frozen_dataclasses_is_called(text: str) -> None:
    with pytest.raises(ConfigError, match="not a frozen dataclass"):
        parse(text)


def complaint(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        ("Repaly(fraction=0.1)", 0, "did you mean 'Replay'?"),
        ("ewc()", 0, "did you mean 'EWC'?"),
        ("L2SP(), Replay(fracton=0.1)", 15, "did you mean 'fraction'? Its arguments: fraction=0.1, capacity=1000"),
        ("Replay(0.1, True)", 12, "capacity=True does not fit; give int"),
        ("Replay(fraction='x')", 7, "fraction='x' does not fit; give float"),
        ("Replay(selection='fifo')", 7, "give one of 'reservoir', 'balanced'"),
        ("L2SP(1, 2)", 8, "takes 1 arguments without a name at most"),
        ("Replay(0.1, fraction=0.2)", 12, "given 'fraction' twice"),
        ("L2SP(), Replay(fraction=2)", 8, "fraction is in [0, 1)"),
        ("L2SP(), NextToken()", 8, "NextToken() is not a method"),
        (f"'é', {HERE}:Leaf(x=1)", 5 + len(HERE) + 6, "no argument 'x'"),
        ("no_such_package.x:Y()", 0, "No module named 'no_such_package'"),
        ("everlearn.method:Chian()", 0, "did you mean 'Chain'?"),
        ("Replay(fraction=0.1", 6, "never closed"),
        ("[1, 2 + 3]", 4, "can stand here"),
    ],
)
def test_an_error_says_what_is_wrong_and_points_at_it(text: str, column: int, words: str) -> None:
    message, shown, caret = complaint(text).rsplit("\n", 2)
    assert words in message
    assert shown == f"  {text}"
    assert caret.index("^") == column + 2


def test_an_error_in_a_long_text_shows_the_part_around_it() -> None:
    text = "L2SP(), " * 100 + "Repaly(), " + "L2SP(), " * 100
    _, shown, caret = complaint(text).rsplit("\n", 2)
    assert len(shown) < 120
    assert shown[caret.index("^") :].startswith("Repaly()")


def test_missing_arguments_are_named() -> None:
    assert "Tree lacks leaf. Its arguments: leaf (required), leaves=()" in complaint(f"{HERE}:Tree()")


@pytest.mark.parametrize(
    ("plain", "words"),
    [
        ({f"{HERE}:Leaf": {"sise": 1}}, "did you mean 'size'?"),
        ({f"{HERE}:Leaf": {"size": 1.5}}, "size=1.5 does not fit; give int"),
        ({f"{HERE}:Leaf": [1]}, "takes its arguments as a mapping"),
        ({f"{HERE}:Tree": {}}, "lacks leaf"),
        ({f"{HERE}:Thawed": {}}, "not a frozen dataclass"),
        ({"os:getcwd": {}}, "not a frozen dataclass"),
        ({f"{HERE}:Laef": {}}, "did you mean 'Leaf'?"),
    ],
)
def test_what_cannot_be_restored_is_named(plain: Any, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        restore(plain)
    assert words in str(caught.value)


@pytest.mark.parametrize("value", [{1, 2}, lambda: 1, Thawed(), {1: 2}, [].append, Leaf().init, object()])
def test_what_has_no_plain_form_is_refused(value: Any) -> None:
    with pytest.raises(ConfigError):
        dump(value)
    with pytest.raises(ConfigError):
        show(value)


def test_a_class_that_cannot_be_found_again_is_refused() -> None:
    @dataclass(frozen=True)
    class Local:
        size: int = 1

    for write in (dump, show):
        with pytest.raises(ConfigError, match="at the top of a module"):
            write(Local())


def test_a_class_and_a_nan_have_no_expression() -> None:
    with pytest.raises(ConfigError, match="is a class"):
        show(Leaf)
    with pytest.raises(ConfigError, match="NaN"):
        show(math.nan)


GIVEN = {
    "GrowVocabulary": {"tokens": ("<think>",)},
    "InheritAdapter": {"adapter": "old"},
    "OldAdapterKL": {"adapter": "old", "base": "embedded"},
}
"""What has no default."""


def test_every_public_method_and_recipe_survives_both_forms() -> None:
    kinds = [getattr(everlearn, name) for name in everlearn.__all__]
    methods = [kind for kind in kinds if is_frozen(kind) and issubclass(kind, Method)]
    assert {kind.__name__ for kind in methods} >= {"LoRA", "Replay", "EWC", "L2SP"}
    others = ["NextToken", "ExactMatch", "Choice", "TokenAccuracy", "Recipe", "AdamW", "Schedule", "Learner"]
    for kind in [*methods, *(getattr(everlearn, name) for name in others)]:
        value = kind(**GIVEN.get(kind.__name__, {}))
        assert parse(show(value)) == restore(json.loads(json.dumps(dump(value)))) == value


def test_the_expression_of_the_first_page_is_understood() -> None:
    text = "LoRA(rank=16), Replay(fraction=0.05), EWC(strength=100)"
    assert parse_method(text) == chain(everlearn.LoRA(rank=16), Replay(fraction=0.05), EWC(strength=100))
    assert show(parse_method("LoRA(rank=8), Replay(fraction=0.05)")) == "LoRA(rank=8), Replay(fraction=0.05)"
