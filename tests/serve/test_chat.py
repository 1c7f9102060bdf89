"""A chat over HTTP, with a server on this machine."""

from collections.abc import Sequence

import pytest

from everlearn.config import parse, show
from everlearn.errors import ConfigError, ModelError
from everlearn.examples import Example, Message
from everlearn.rewards.judge import Judge
from everlearn.rewards.reward import Answer
from everlearn.serve.chat import OpenAIChat
from tests.serve.stand_in import StandIn, serving

HELLO = (Message("system", "be brief"), Message("user", "hello"))


def answering(text: object, reason: str = "stop") -> StandIn:
    return StandIn(chat=lambda body: {"choices": [{"message": {"content": text}, "finish_reason": reason}]})


def test_a_conversation_is_asked_as_openai_asks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "secret")
    with serving(answering("hi")) as server:
        assert OpenAIChat(server.url, "m", temperature=0.5, limit=7, key="SOME_KEY")(HELLO) == "hi"
        assert OpenAIChat(f"{server.url}/", "m")(HELLO) == "hi"
    (path, body, key), (_, _, without) = server.asked
    assert path == "/v1/chat/completions"
    turns = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
    assert body == {"model": "m", "messages": turns, "temperature": 0.5, "max_tokens": 7}
    assert (key, without) == ("Bearer secret", None)


def test_half_an_answer_or_none_is_an_error() -> None:
    for server, reason in (
        (answering("hal", "length"), "cut an answer off at 4096 tokens"),
        (answering(None, "tool_calls"), "an answer without text"),
        (answering(" "), "an answer without text"),
        (StandIn(chat=lambda body: {"choices": []}), "another form than OpenAI's"),
        (StandIn(chat=lambda body: "hi"), "another form than OpenAI's"),
        (StandIn(troubles=[(401, {"error": {"message": "no such key"}}, {})]), "refuses .401.: no such key"),
    ):
        with serving(server), pytest.raises(ModelError, match=reason):
            OpenAIChat(server.url, "m")(HELLO)


def test_the_key_stays_in_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOME_KEY", raising=False)
    chat = OpenAIChat("http://127.0.0.1:1", "m", key="SOME_KEY")
    with pytest.raises(ConfigError, match="SOME_KEY is not set"):
        chat(HELLO)
    assert parse(show(chat)) == chat


def test_a_judge_may_be_a_server() -> None:
    def marks(body: dict[str, Sequence[dict[str, str]]]) -> object:
        return {"choices": [{"message": {"content": "Rating: 10"}, "finish_reason": "stop"}]}

    asked = Example(messages=(Message("user", "why?"), Message("assistant", "so")))
    with serving(StandIn(chat=marks)) as server:
        assert Judge(OpenAIChat(server.url, "m")).score(asked, [Answer("because")]) == [1.0]
