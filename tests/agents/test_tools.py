"""Functions as tools: by themselves, and called by the toy in a rollout."""

import asyncio
import json
import time
from dataclasses import replace
from datetime import date
from itertools import pairwise
from typing import Any

import pytest

from everlearn.agents.multi_turn import MultiTurn
from everlearn.agents.parsers import Call
from everlearn.agents.tools import Calling, ToolEnv, Tools, as_text, functions_as_tools, schemas
from everlearn.config import dump, parse, restore, show
from everlearn.data.render import render_prompt
from everlearn.errors import ConfigError, ModelError
from everlearn.examples import Example, Message
from everlearn.models.language_model import LanguageModel
from everlearn.models.sampling import Sampling
from everlearn.testing.toys import TEMPLATE, question, toy_model

PROMPTS = [question(f"add {w}", w) for w in "abc"]
KNOWING = (
    "{% if tools %}<|system|>{% for t in tools %}{{ t.function.name }} {% endfor %}<|end|>{% endif %}"
    + TEMPLATE.replace("m['role'] +", "('user' if m['role'] == 'tool' else m['role']) +")
)


def add(a: int, b: int = 1) -> int:
    """Add two numbers.

    Args:
        a: the first.
        b: the second.
    """
    return a + b


def sleep(seconds: float) -> str:
    """Wait.

    Args:
        seconds: how long.
    """
    time.sleep(seconds)
    return "done"


def broken(what: str) -> dict[str, str]:
    """Look something up.

    Args:
        what: to look for.
    """
    return {"found": {"a": "b"}[what]}


class Shy:
    """Shows nothing but its address."""


class Mute:
    """Cannot be shown."""

    def __str__(self) -> str:
        raise ValueError("no words")


def mute() -> Mute:
    """Return what cannot be shown."""
    return Mute()


def echo(text: str) -> str:
    """Say something again.

    Args:
        text: to say.
    """
    return text


def untyped(a):  # type: ignore[no-untyped-def]
    """Do nothing.

    Args:
        a: whatever.
    """


def undescribed(a: int) -> int:
    """Do nothing."""
    return a


def letters(text: str) -> tuple[Call, ...]:
    """A parser for what the toy can write: each b calls `broken` with the letter behind it."""
    return tuple(Call("broken", {"what": after}) for before, after in pairwise(text) if before == "b")


async def look(at: str) -> str:
    """Look at something.

    Args:
        at: what.
    """
    await asyncio.sleep(0)
    return f"a {at}"


def name(function: Any) -> str:
    return f"{__name__}:{function.__name__}"


def env(**fields: Any) -> ToolEnv:
    return Tools((name(add), name(sleep), name(broken)), Calling(**fields))()


def call(*calls: tuple[str, dict[str, Any]]) -> str:
    return "".join(f"<tool_call>{json.dumps({'name': n, 'arguments': a})}</tool_call>" for n, a in calls)


def model(template: str) -> LanguageModel:
    found = toy_model()
    found.tokenizer.chat_template = template
    return found


def test_a_function_is_told_of_by_signature_and_docstring() -> None:
    (schema,) = schemas([add])
    told = schema["function"]
    assert (told["name"], told["description"]) == ("add", "Add two numbers.")
    assert told["parameters"]["properties"]["a"] == {"type": "integer", "description": "the first."}
    assert told["parameters"]["required"] == ["a"]


@pytest.mark.parametrize("function", [untyped, undescribed])
def test_what_cannot_be_told_of_is_refused(function: Any) -> None:
    with pytest.raises(ConfigError, match=f"{function.__name__} cannot be a tool"):
        Tools((name(function),))


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"\['add'\] stand for more than one"):
        Tools((name(add), name(look), name(add)))


def test_results_come_in_a_turn_each_and_an_answer_without_a_call_is_the_last() -> None:
    tools = env()
    tools.reset(PROMPTS[0], 0)
    heard = tools.step(call(("add", {"a": 2, "b": 3}), ("add", {"a": 4})))
    assert heard.messages == (Message("tool", "5"), Message("tool", "5"))
    assert not heard.done
    assert heard.info == {"calls": 2, "failed calls": 0}
    last = tools.step("it is 5")
    assert (last.done, last.messages, last.reward) == (True, (), None)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (call(("broken", {"what": "c"})), "Error: KeyError: 'c'"),
        (call(("subtract", {})), "Error: there is no function 'subtract'; there are ['add', 'broken', 'sleep']."),
        (call(("add", {"b": 2})), "Error: TypeError: add() missing 1 required positional argument: 'a'"),
        (call(("add", {"a": 2, "c": 3})), "Error: TypeError: add() got an unexpected keyword argument 'c'"),
        (call(("sleep", {"seconds": 5.0})), "Error: TimeoutError: no result in 0.2 seconds"),
        (
            "<tool_call>add 2 and 3</tool_call>",
            "Error: a call has to be JSON: Expecting value",
        ),
    ],
)
def test_what_goes_wrong_is_told_to_the_model_and_counted(text: str, told: str) -> None:
    heard = env(seconds=0.2).step(text)
    assert heard.messages[0].role == "tool"
    assert heard.messages[0].content.startswith(told)
    assert heard.info == {"calls": 1, "failed calls": 1}
    assert not heard.done


def test_a_function_that_is_awaited_is_waited_for() -> None:
    assert Tools((name(look),))().step(call(("look", {"at": "door"}))).messages == (Message("tool", "a door"),)


def test_two_tools_of_one_name_are_refused_wherever_they_come_from() -> None:
    with pytest.raises(ConfigError, match=r"two tools have one name; there are \['add', 'add'\]"):
        ToolEnv(functions_as_tools([add, add]), Calling())


def test_results_are_words_or_json() -> None:
    assert as_text("a b") == "a b"
    assert as_text({"a": (1, None), "b": "\u00e9"}) == '{"a": [1, null], "b": "\u00e9"}'
    assert [as_text(v) for v in (1.5, True, None, float("nan"))] == ["1.5", "true", "null", "NaN"]


def test_a_result_that_is_no_json_is_told_as_python_shows_it() -> None:
    circle: list[Any] = [1]
    circle.append(circle)
    assert as_text({1}) == "{1}"
    assert as_text({(0, 1): "a"}) == "{(0, 1): 'a'}"
    assert as_text(circle) == "[1, [...]]"
    assert as_text({"day": date(2026, 1, 2)}) == '{"day": "2026-01-02"}'
    assert as_text([float("nan")]) == "[NaN]"
    for told in (as_text(Shy()), as_text([Shy()])):
        assert "Shy object" in told
        assert "0x" not in told, "addresses differ from run to run"


def test_a_result_that_cannot_be_shown_is_an_error_that_the_model_is_told_of() -> None:
    heard = Tools((name(mute),))().step(call(("mute", {}), ("mute", {})))
    assert heard.messages == (Message("tool", "Error: ValueError: no words"),) * 2
    assert heard.info == {"calls": 2, "failed calls": 2}


def test_half_a_character_is_told_as_a_question_mark() -> None:
    told = Tools((name(echo),))().step(call(("echo", {"text": "a \ud800 b"}))).messages
    assert told == (Message("tool", "a ? b"),)
    assert render_prompt(model(KNOWING).tokenizer, told)


def test_tools_can_be_told_of_in_the_systems_turn() -> None:
    bare = env(told="system").reset(PROMPTS[0], 0)
    first, second = bare.messages
    assert not bare.tools
    assert first.role == "system"
    assert all(f'"name": "{n}"' in first.content for n in ("add", "sleep", "broken"))
    assert (second,) == PROMPTS[0].prompt
    begun = Example(messages=(Message("system", "be brief."), *PROMPTS[0].messages))
    assert env(told="system").reset(begun, 0).messages[0].content == f"be brief.\n\n{first.content}"


@pytest.mark.parametrize("told", ["template", "system"])
def test_an_example_without_an_answer_is_asked_whole(told: str) -> None:
    asked = (Message("user", "add a"), Message("assistant", "to what?"), Message("user", "to b"))
    for messages in (asked, (*asked, Message("assistant", "c"))):
        assert env(told=told).reset(Example(messages=messages), 0).messages[-3:] == asked
    alone = env(told="system").reset(Example(messages=(Message("assistant", "a"),)), 0).messages
    assert [m.role for m in alone] == ["system"]


def rollout(**fields: Any) -> MultiTurn:
    tools = Tools((name(broken),), Calling(parser=letters, **fields))
    return MultiTurn(tools, Sampling(temperature=2.0, limit=8), turns=3, cut="close")


def test_the_chat_template_tells_of_tools_and_their_results_are_no_drawn_tokens() -> None:
    knowing = model(KNOWING)
    traces = [t for group in rollout().run(knowing, PROMPTS, 12, 0) for t in group]
    calling = [t for t in traces if t.notes["calls"]]
    assert calling
    for trace in traces:
        assert trace.prompt == render_prompt(knowing.tokenizer, trace.messages[:1], schemas([broken]))
        assert trace.notes["calls"] == sum(len(letters(m.content)) for m in trace.messages if m.role == "assistant")
        told = [m.content for m in trace.messages if m.role == "tool"]
        assert len(told) == trace.notes["calls"]
        assert sum(t.startswith("Error: KeyError") for t in told) == trace.notes["failed calls"]
        assert trace.reward is None
    drawn = [t for trace in calling for t, mine in zip(trace.tokens, trace.drawn, strict=True) if not mine]
    assert "".join(knowing.tokenizer.convert_ids_to_tokens(drawn)).count("rror: ")


def test_a_template_that_leaves_out_tools_is_reported() -> None:
    with pytest.raises(ModelError, match="leaves out tools; tell of them in the system's turn"):
        rollout().run(toy_model(), PROMPTS, 1, 0)
    (trace,) = rollout(told="system").run(toy_model(), PROMPTS[:1], 1, 0)[0]
    assert trace.messages[0].content.startswith("You may call functions")


def test_tools_are_an_expression() -> None:
    text = f"MultiTurn(Tools(('{name(add)}',), Calling({__name__}:letters, seconds=2)), turns=4)"
    found = parse(text)
    assert found.env.calling.parser is letters
    assert parse(show(found)) == found
    assert restore(dump(found)) == found
    with pytest.raises(ConfigError, match="leads nowhere"):
        parse(f"Tools(('{__name__}:subtract',))")
    with pytest.raises(ConfigError, match="give a call some time"):
        replace(Calling(), seconds=0.0)
    with pytest.raises(ConfigError, match=r"told='user': choose among .*'system'"):
        Calling(told="user")  # type: ignore[arg-type]
