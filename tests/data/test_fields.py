"""Fields of rows: what they hold, and what is wrong with them in words."""

import pytest

from everlearn.data.fields import ending_well, kind, optional, text_in, turns_in
from everlearn.errors import DataError


def test_what_a_value_is_in_words() -> None:
    said = [kind(value) for value in (True, 2, None, [], {}, "a")]
    assert said == ["the boolean true", "the number 2", "null", "a list", "an object", "a text"]


def test_a_field_that_may_be_missing_is_empty_then_and_of_its_kind_otherwise() -> None:
    assert (optional({}, "a", list), optional({"a": None}, "a", dict), optional({"a": [1]}, "a", list)) == ([], {}, [1])
    with pytest.raises(DataError, match="the field 'a' is a text, not a list"):
        optional({"a": "x"}, "a", list)


def test_a_text_has_to_be_there_and_say_something() -> None:
    assert text_in({"a": " x"}, "a") == " x"
    for row, wrong in (({"b": "x"}, "lacks"), ({"a": " "}, "is empty"), ({"a": "\ud800"}, "half of a surrogate")):
        with pytest.raises(DataError, match=wrong):
            text_in(row, "a")


def test_turns_are_named_by_number_when_they_are_wrong() -> None:
    turns = turns_in([{"role": "human", "content": "a"}, {"role": "gpt", "content": "b"}], "role", "content")
    assert [m.role for m in ending_well(turns)] == ["user", "assistant"]
    with pytest.raises(DataError, match="end with a turn of the assistant"):
        ending_well(turns[:1])
    with pytest.raises(DataError, match="turn 2: lacks the field 'role'"):
        turns_in([{"role": "user", "content": "a"}, {"content": "b"}], "role", "content")
