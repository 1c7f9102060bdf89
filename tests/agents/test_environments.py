from typing import Any

import pytest

from everlearn.agents.environments import Observation
from everlearn.errors import DataError
from everlearn.examples import Message


def test_a_text_is_a_turn_of_the_users_and_turns_are_themselves() -> None:
    turns = (Message("system", "be brief"), Message("user", "a?"))
    assert Observation("a?").messages == (Message("user", "a?"),)
    assert Observation(turns).messages == turns
    assert Observation().messages == ()


@pytest.mark.parametrize(
    "fields", [{"said": None}, {"said": [Message("user", "a")]}, {"said": ("a",)}, {"reward": float("nan")}]
)
def test_what_cannot_be_said_or_counted_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"an environment (said|gave)"):
        Observation(**fields)
