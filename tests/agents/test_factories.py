from typing import Any

from everlearn.agents.factories import EnvironmentFactory
from everlearn.agents.multi_turn import MultiTurn
from everlearn.agents.parsers import Call
from everlearn.agents.tools import Calling
from everlearn.config import parse, show
from everlearn.examples import Example, Message
from everlearn.models.sampling import Sampling
from everlearn.objectives.policy_gradient import PolicyGradient
from everlearn.testing.toys import question, toy_model


class Counter:
    """A counter as TRL's documentation has it: methods are tools, attributes the state."""

    def __init__(self) -> None:
        self.count = 0
        self._hidden = 1

    def reset(self, prompt: list[dict[str, str]], answer: str, start: int = 0, **row: Any) -> str | None:
        """Begin."""
        self.count, self.target = start, len(answer)
        return f" you begin at {start}." if start else None

    def increment(self, by: int) -> str:
        """Count on.

        Args:
            by: how far.
        """
        self.count += by
        return f"now {self.count}"

    def _secret(self) -> None:
        raise AssertionError

    def get_reward(self) -> float:
        """How near it is."""
        return -float(abs(self.target - self.count))


class Plain:
    """Nothing but a tool."""

    def reset(self, **row: Any) -> None:
        """Begin."""

    def roll(self) -> int:
        """Roll a die."""
        return 4


def letters(text: str) -> tuple[Call, ...]:
    """Each vowel counts one on."""
    return tuple(Call("increment", {"by": 1}) for c in text if c in "aeiou")


TAG = '<tool_call>{"name": "increment", "arguments": {"by": %d}}</tool_call>'


def test_methods_are_tools_and_attributes_the_state_of_one_attempt() -> None:
    made = [EnvironmentFactory(Counter)() for _ in range(2)]
    example = Example(messages=question("count to 5.", "fives").messages, metadata={"start": 2})
    first, _ = (env.reset(example, 0) for env in made)
    assert first.messages == (Message("user", "count to 5. you begin at 2."),)
    assert [tool["function"]["name"] for tool in first.tools] == ["increment"]
    heard = made[0].step(TAG % 2)
    assert heard.messages == (Message("tool", "now 4"),)
    assert (made[0].made.count, made[1].made.count) == (4, 2)


def test_the_reward_is_that_of_the_state_in_the_end() -> None:
    env = EnvironmentFactory(Counter)()
    env.reset(question("count to 5.", "fives"), 0)
    assert [env.step(text).reward for text in (TAG % 3, TAG % 1, "done")] == [None, None, None]
    assert env.score() == -1.0


def test_a_class_without_a_reward_leaves_it_to_others() -> None:
    env = EnvironmentFactory(Plain)()
    assert env.reset(question("roll.", "4"), 0).messages == (Message("user", "roll."),)
    heard = env.step('<tool_call>{"name": "roll", "arguments": {}}</tool_call>')
    assert (heard.messages, env.score()) == ((Message("tool", "4"),), None)


class Undecided(Plain):
    """Cannot tell how it went."""

    def get_reward(self) -> None:
        """Say nothing."""


def test_a_class_may_find_that_an_attempt_cannot_be_scored() -> None:
    assert EnvironmentFactory(Undecided)().score() is None


class Echo(Plain):
    """Keeps what it is given."""

    def reset(self, **row: Any) -> str:
        """Begin."""
        self.row = row
        return " Go."


def test_an_example_without_an_answer_is_asked_whole() -> None:
    env = EnvironmentFactory(Echo)()
    asked = (Message("system", "be brief."), Message("user", "roll."))
    assert env.reset(Example(messages=asked), 0).messages == (asked[0], Message("user", "roll. Go."))
    assert [turn["content"] for turn in env.made.row["prompt"]] == ["be brief.", "roll."]
    assert env.made.row["answer"] is None
    answered = Example(messages=(*asked, Message("assistant", "4")))
    assert env.reset(answered, 0).messages == (asked[0], Message("user", "roll. Go."))
    assert env.made.row["answer"] == "4"
    assert env.reset(Example(messages=(Message("assistant", "4"),)), 0).messages == (Message("user", " Go."),)


def test_a_class_is_learned_from() -> None:
    rollout = MultiTurn(
        EnvironmentFactory(Counter, Calling(letters, told="system")), Sampling(limit=8), turns=2, cut="close"
    )
    examples = [question("count to 3.", "abc"), question("count to 4.", "abcd")]
    attempts = PolicyGradient(group=6, rollout=rollout).attempt(toy_model(), examples, 0)
    for attempt in attempts:
        vowels = sum(c in "aeiou" for m in attempt.trace.messages if m.role == "assistant" for c in m.content)
        assert attempt.trace.reward == -abs(len(attempt.example.response) - vowels)
    assert any(a.advantage for a in attempts)


def test_a_factory_is_an_expression() -> None:
    found = parse(f"MultiTurn(EnvironmentFactory({__name__}:Counter), turns=4)")
    assert found.env.factory is Counter
    assert parse(show(found)) == found
