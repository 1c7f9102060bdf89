import json
from typing import Any

import pytest

from everlearn.agents.parsers import Call, any_form, hermes, plain_json

ADD = {"name": "add", "arguments": {"a": 1, "b": 2}}
DEEP = "[" * 100_000
CALL = Call("add", {"a": 1, "b": 2})


def tag(content: Any) -> str:
    return f"<tool_call>\n{json.dumps(content)}\n</tool_call>"


def test_calls_in_tags_are_found_in_order_with_words_around_them() -> None:
    other = {"name": "say", "arguments": {}}
    assert hermes(f"I add.{tag(ADD)}\n{tag(other)} and wait") == (CALL, Call("say"))
    assert hermes(f"<tool_call>{json.dumps(ADD)}") == (CALL,)
    assert hermes("the sum is 3") == ()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("<tool_call>add(1, 2)</tool_call>", "a call has to be JSON: Expecting value"),
        (tag({"name": "add"}), 'a call has a "name"'),
        (tag({"arguments": {}}), 'a call has a "name"'),
        (tag({"name": 3, "arguments": {}}), 'a call has a "name"'),
        (tag({"name": "add", "arguments": "[1, 2"}), 'a call has a "name"'),
        (tag(3), 'a call has a "name"'),
        (tag([]), 'a call has a "name"'),
        (tag({"name": "add", "arguments": DEEP}), 'a call has a "name"'),
        (f"<tool_call>{DEEP}", "a call has to be JSON: maximum recursion"),
        (f"<tool_call>{'7' * 5000}", "a call has to be JSON: Exceeds the limit"),
    ],
)
def test_a_tag_without_a_call_is_a_call_with_an_error(text: str, error: str) -> None:
    (call,) = hermes(text)
    assert call.error.startswith(error)


@pytest.mark.parametrize(
    "content",
    [
        {"name": "add", "parameters": {"a": 1, "b": 2}},
        {"type": "function", "function": ADD},
        {"name": "add", "arguments": json.dumps(ADD["arguments"])},
        [ADD],
    ],
)
def test_the_ways_to_write_a_call_mean_the_same(content: Any) -> None:
    assert hermes(tag(content)) == plain_json(json.dumps(content)) == (CALL,)


def test_json_alone_or_in_fences_is_a_call_if_it_describes_one() -> None:
    text = json.dumps(ADD)
    assert plain_json(f" {text}\n") == (CALL,)
    assert plain_json(f"I add.\n```json\n{text}\n```\nand\n```\n{text}\n```") == (CALL, CALL)
    for answer in ('{"sum": 3}', "3", "[1, 2]", "the sum is 3", "```\nx = 3\n```", DEEP, "7" * 5000):
        assert plain_json(answer) == ()


def test_tags_go_before_json() -> None:
    assert any_form(tag(ADD)) == any_form(json.dumps(ADD)) == (CALL,)
    assert any_form("the sum is 3") == ()
    assert any_form("<tool_call>oops</tool_call>")[0].error
