"""Numbers as people read them."""

import pytest

from everlearn.definitions import DEFINITIONS
from everlearn.wording import ABILITY, ABSENT, CHIEF, MINUS, TITLES, bracket, chance, listed, percent, titled


@pytest.mark.parametrize(
    ("value", "signed", "text"),
    [
        (0.1234, False, "12.3"),
        (0.1234, True, "+12.3"),
        (-0.5, True, f"{MINUS}50.0"),
        (-0.0001, True, "0.0"),
        (0.0, True, "0.0"),
        (1.0, False, "100.0"),
        (None, False, ABSENT),
    ],
)
def test_a_fraction_is_written_in_percent_with_one_decimal(value: float | None, signed: bool, text: str) -> None:
    assert percent(value, signed=signed) == text


def test_what_is_in_percent_already_is_not_scaled() -> None:
    assert percent(78.365, "percent") == "78.4"
    assert bracket(1.0, 2.0, "percent") == "[1.0, 2.0]"


def test_an_interval_stands_in_brackets_or_is_nothing() -> None:
    assert bracket(-0.1, 0.2, signed=True) == f"[{MINUS}10.0, +20.0]"
    assert bracket(None, None) == ""


@pytest.mark.parametrize(
    ("p", "text"), [(None, ""), (1 / 1001, "p < 0.001"), (0.0499, "p = 0.050"), (0.26, "p = 0.26"), (1.0, "p = 1.00")]
)
def test_a_p_value_is_as_exact_as_it_needs_to_be(p: float | None, text: str) -> None:
    assert chance(p) == text


def test_long_lists_are_counted() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert listed(["a", "b", "c"], most=2) == "a, b and 1 more"


def test_every_definition_has_a_title_of_its_own() -> None:
    assert list(TITLES) == [definition.__name__ for definition in DEFINITIONS]
    assert len({title.short for title in TITLES.values()}) == len(TITLES)
    assert set(CHIEF) <= set(TITLES)


def test_a_general_ability_goes_by_its_name() -> None:
    assert titled(f"{ABILITY}[long division]").short == "long division"
    assert titled("accuracy").short == "ACC"
