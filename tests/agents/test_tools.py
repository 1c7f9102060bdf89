"""Functions as tools: by themselves, and called by the toy in a rollout."""

import asyncio
import json
import time
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from everlearn.agents.multi_turn import MultiTurn
from everlearn.agents.parsers import Call
from everlearn.agents.tools import Calling, ToolEnv, Tools, as_text, schemas
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


def test_two_tools_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"two tools have one name; there are \['add', 'add'\]"):
        Tools((name(add), name(add)))()


def test_results_are_words_or_json() -> None:
    assert as_text("a b") == "a b"
    assert as_text({"a": (1, None), "b": "\u00e9"}) == '{"a": [1, null], "b": "\u00e9"}'
    assert as_text({1}) == '"{1}"'


def test_tools_can_be_told_of_in_the_systems_turn() -> None:
    bare = env(told="system").reset(PROMPTS[0], 0)
    first, second = bare.messages
    assert not bare.tools
    assert first.role == "system"
    assert all(f'"name": "{n}"' in first.content for n in ("add", "sleep", "broken"))
    assert (second,) == PROMPTS[0].prompt
    begun = Example(messages=(Message("system", "be brief."), *PROMPTS[0].messages))
    assert env(told="system").reset(begun, 0).messages[0].content == f"be brief.\n\n{first.content}"


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
