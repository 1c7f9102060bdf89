"""Prompts with places."""

import pytest

from everlearn.data.templates import filled, require_places
from everlearn.errors import ConfigError


def test_places_are_filled_all_at_once_and_unknown_ones_stay() -> None:
    assert filled("{a} and {b}, {c}", {"a": "{b}", "b": "{a}"}) == "{b} and {a}, {c}"


def test_a_prompt_without_its_place_is_refused() -> None:
    require_places("Judge", "of {a} and {b}", "a", "b")
    with pytest.raises(ConfigError, match=r"Judge: the prompt has no place \{b\}"):
        require_places("Judge", "of {a}", "a", "b")
