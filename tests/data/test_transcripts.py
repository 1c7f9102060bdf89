"""Examples survive being written and read, and what is no example is refused."""

import pytest

from everlearn.data.transcripts import read, survives, written
from everlearn.examples import Example, Message
from everlearn.testing.toys import question, toy_stream


def talk(*turns: tuple[str, str]) -> Example:
    return Example(messages=tuple(Message(role, content) for role, content in turns))


def test_the_toys_examples_survive() -> None:
    assert all(survives(e) for experience in toy_stream() for e in experience.train)
    assert written(question("1+1?", "2")) == "user: 1+1?\nassistant: 2"


def test_conversations_of_several_turns_survive() -> None:
    long = talk(("system", "be brief"), ("user", "a\nb"), ("assistant", "c"), ("user", "d"), ("assistant", "e\n\nf"))
    assert survives(long)
    assert read(written(long), document=False) == long


NO_CONVERSATION = [
    *("", "hello", "user: a", "user: a\nassistant:", "assistant: b", "user: \nassistant: b"),
    "user: a\nassistant: b\nuser: c",
]


@pytest.mark.parametrize("text", NO_CONVERSATION)
def test_what_is_no_conversation_is_refused(text: str) -> None:
    assert read(text, document=False) is None


def test_a_document_is_any_text_and_nothing_is_none() -> None:
    assert read(" user: a ", document=True) == Example(text="user: a")
    assert read(" \n", document=True) is None


def test_what_would_be_read_otherwise_does_not_survive() -> None:
    assert not survives(question("a\nuser: b", "c"))
    assert not survives(question(" a", "c"))
    assert not survives(talk(("tool", "a"), ("user", "b"), ("assistant", "c")))
