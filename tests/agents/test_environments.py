from everlearn.agents.environments import Observation
from everlearn.examples import Message


def test_a_text_is_a_turn_of_the_users_and_turns_are_themselves() -> None:
    turns = (Message("system", "be brief"), Message("user", "a?"))
    assert Observation("a?").messages == (Message("user", "a?"),)
    assert Observation(turns).messages == turns
    assert Observation().messages == ()
