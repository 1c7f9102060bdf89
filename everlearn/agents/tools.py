"""Typed Python functions as tools: what a model is told of them, and an environment that makes the calls."""

import asyncio
import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, get_args

from transformers.utils.chat_template_utils import (
    DocstringParsingException,
    TypeHintParsingException,
    get_json_schema,
)

from everlearn.agents.calls import Outcome, limited
from everlearn.agents.environments import Observation
from everlearn.agents.parsers import Call, Parser, any_form
from everlearn.errors import ConfigError
from everlearn.examples import Example, Message
from everlearn.names import optional, resolve
from everlearn.rewards.reward import question

Function = Callable[..., Any]
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
Told = Literal["template", "system"]

INSTRUCTIONS = """You may call functions. These are they, one a line, as JSON schemas:
{schemas}
To call one, write <tool_call>{{"name": "its name", "arguments": {{"its argument": "value"}}}}</tool_call>. You are \
told its result, and go on. When you are done, answer without a call."""


@dataclass(frozen=True)
class Calling:
    """How calls are told of, read and made.

    Args:
        parser: finds the calls in an answer.
        seconds: most time of a call; after it the model is told so, and what the call does meanwhile is not undone.
        told: whether the chat "template" tells the model of the tools, or the "system" turn, for templates that do not
            know of any.
    """

    parser: Parser = any_form
    seconds: float = 10.0
    told: Told = "template"

    def __post_init__(self) -> None:
        """Refuse a way of telling that there is not, and a time that lets no call return."""
        if self.told not in get_args(Told):
            raise ConfigError(f"told={self.told!r}: choose among {get_args(Told)}.")
        if self.seconds <= 0:
            raise ConfigError(f"seconds={self.seconds}: give a call some time.")


@dataclass(frozen=True)
class Tool:
    """What a model may call.

    Args:
        schema: what the model is told of it: `{"type": "function", "function": {"name": ..., "parameters": ...}}`.
        call: makes a call with arguments by name, and returns a text or plain data; what it raises is told in words.
    """

    schema: Mapping[str, Any]
    call: Callable[[Mapping[str, Any]], Any]

    @property
    def name(self) -> str:
        """What it is called by."""
        return str(self.schema["function"]["name"])


@dataclass(frozen=True)
class Tools:
    """Environments in which the model may call functions before it answers; an answer without a call is the last.

    A function, async or not, needs a type for each argument, and a docstring in Google style that describes it and
    each argument. What it returns is told as `as_text` has it. A server says what it has by itself; it is started with
    the first attempt, once for all of them. An attempt is judged by the reward of the policy gradient; no answer has
    one here. Counted are `calls`, and of these the `failed calls`, which raised, took too long, or could not be
    understood: the model is told in words.

    Functions and servers are shared by all attempts: what they do should hang on their arguments alone. Tools with a
    state of their own for each attempt are the methods of a class; see `EnvironmentFactory`.

    Args:
        functions: names as `package.module:function`.
        calling: how calls are made.
        servers: commands that start servers of the Model Context Protocol, which speak over stdin and stdout.

    Raises:
        ConfigError: if a name leads nowhere, its function lacks types or docstring, or two have the same name.
    """

    functions: tuple[str, ...] = ()
    calling: Calling = field(default_factory=Calling)
    servers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """See that the functions can be told of, and told apart."""
        told = [schema["function"]["name"] for schema in schemas([resolve(name) for name in self.functions])]
        if twice := sorted({name for name in told if told.count(name) > 1}):
            raise ConfigError(f"Tools: {twice} stand for more than one function; a call could mean either. Rename.")

    def __call__(self) -> "ToolEnv":
        """An environment for one attempt.

        Raises:
            ConfigError: if `mcp` is needed and not installed, or a server does not start.
        """
        found = functions_as_tools([resolve(name) for name in self.functions])
        for command in self.servers:
            found += optional("everlearn.agents.mcp:tools_of", "mcp")(command)
        return ToolEnv(found, self.calling)


class ToolEnv:
    """An environment that makes the calls in an answer, and is done with an answer that has none.

    Args:
        tools: what may be called.
        calling: how calls are made.

    Raises:
        ConfigError: if two tools have one name.
    """

    def __init__(self, tools: Sequence[Tool], calling: Calling) -> None:
        self.tools, self.calling = {tool.name: tool for tool in tools}, calling
        self.schemas = tuple(tool.schema for tool in tools)
        if len(self.tools) < len(tools):
            raise ConfigError(f"two tools have one name; there are {sorted(tool.name for tool in tools)}.")

    def reset(self, example: Example, seed: int) -> Observation:
        """The example's prompt, and the tools."""
        return self.opening(question(example))

    def opening(self, messages: tuple[Message, ...]) -> Observation:
        """A prompt, and the tools."""
        if self.calling.told == "template" or not self.schemas:
            return Observation(messages, tools=self.schemas)
        told = INSTRUCTIONS.format(schemas="\n".join(map(json.dumps, self.schemas)))
        begun = bool(messages) and messages[0].role == "system"
        system, rest = (messages[0].content, messages[1:]) if begun else ("", messages)
        return Observation((Message("system", f"{system}\n\n{told}".strip()), *rest))

    def step(self, text: str) -> Observation:
        """The results of the calls, each in a turn of its own by "tool"."""
        calls = self.calling.parser(text)
        results = [self._result(call) for call in calls]
        told = tuple(Message("tool", f"Error: {r.error}" if r.error else r.value) for r in results)
        counts = {"calls": float(len(calls)), "failed calls": float(sum(bool(r.error) for r in results))}
        return Observation(told, done=not calls, info=counts)

    def _result(self, call: Call) -> Outcome:
        """What a call comes to, in words."""
        if call.error:
            return Outcome(error=call.error)
        tool = self.tools.get(call.name)
        if tool is None:
            return Outcome(error=f"there is no function {call.name!r}; there are {sorted(self.tools)}.")
        return limited(lambda: as_text(tool.call(call.arguments)), self.calling.seconds)


def functions_as_tools(functions: Sequence[Function]) -> tuple[Tool, ...]:
    """Python functions as tools.

    Raises:
        ConfigError: if one lacks types, or a docstring that describes it and its arguments.
    """
    return tuple(Tool(schema, partial(_made, f)) for f, schema in zip(functions, schemas(functions), strict=True))


def _made(function: Function, arguments: Mapping[str, Any]) -> Any:
    result = function(**arguments)
    return asyncio.run(result) if inspect.iscoroutine(result) else result


def schemas(functions: Sequence[Function]) -> tuple[Mapping[str, Any], ...]:
    """What a model is told of functions: JSON schemas of their signatures and docstrings.

    Raises:
        ConfigError: if one lacks types, or a docstring that describes it and its arguments.
    """
    return tuple(_schemas(functions))


def _schemas(functions: Sequence[Function]) -> Iterator[Mapping[str, Any]]:
    for function in functions:
        try:
            yield get_json_schema(function)
        except (DocstringParsingException, TypeHintParsingException) as error:
            raise ConfigError(f"{function.__qualname__} cannot be a tool: {error}") from error


def as_text(value: Any) -> str:
    """A result in words: a text as it is, what JSON knows as JSON, and all else as Python shows it.

    Addresses in memory are left out: they differ from run to run, and what the model reads must not.
    """
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool | int | float | list | tuple | dict):
        with suppress(TypeError, ValueError):  # a key that is no text, or a circle
            return json.dumps(value, default=_shown, ensure_ascii=False)
    return _shown(value)


def _shown(value: Any) -> str:
    return ADDRESS.sub("", str(value))
