"""Tools of a real server, which a process of its own speaks for."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from everlearn.agents.multi_turn import MultiTurn
from everlearn.agents.tools import Calling, Tools
from everlearn.config import parse, show
from everlearn.errors import ConfigError
from everlearn.examples import Message
from everlearn.models.sampling import Sampling
from everlearn.testing.toys import question, toy_model
from tests.agents.test_tools import call

pytest.importorskip("mcp", reason="needs mcp: pip install 'everlearn[mcp]'.")

from everlearn.agents.mcp import tools_of

COMMAND = shlex.join([sys.executable, str(Path(__file__).with_name("mcp_server.py"))])


def test_a_server_says_what_it_has_and_makes_the_calls() -> None:
    env = Tools(servers=(COMMAND,), calling=Calling(told="system"))()
    told = env.reset(question("half of 3?", "1.5"), 0).messages[0].content
    schema = json.loads(next(line for line in told.splitlines() if '"divide"' in line))["function"]
    assert schema["description"] == "Divide two numbers."
    assert schema["parameters"]["required"] == ["a"]
    heard = env.step(call(("divide", {"a": 3}), ("divide", {"a": 3, "b": 4.0})))
    assert heard.messages == (Message("tool", "1.5"), Message("tool", "0.75"))
    assert heard.info == {"calls": 2, "failed calls": 0}


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("divide", {"a": 1, "b": 0}, "RuntimeError: Error executing tool divide"),
        ("divide", {"b": 1}, "Field required"),
        ("multiply", {}, "there is no function 'multiply'"),
    ],
)
def test_what_goes_wrong_is_told_and_counted(name: str, arguments: dict[str, float], says: str) -> None:
    heard = Tools(servers=(COMMAND,))().step(call((name, arguments)))
    assert heard.messages[0].content.startswith("Error: ")
    assert says in heard.messages[0].content
    assert heard.info == {"calls": 1, "failed calls": 1}


def test_what_is_no_text_is_told_by_its_kind() -> None:
    (message,) = Tools(servers=(COMMAND,))().step(call(("draw", {}))).messages
    assert message.content == "a point:\n[image]"


def test_all_attempts_share_one_server() -> None:
    assert tools_of(COMMAND) is tools_of(COMMAND)
    said = [Tools(servers=(COMMAND,))().step(call(("add", {"number": 1}))).messages[0].content for _ in range(2)]
    (one, first), (two, second) = (re.findall(r"\d+", text) for text in said)
    assert (int(two) - int(one), first) == (1, second)


def test_functions_and_servers_go_together_in_an_expression() -> None:
    text = f"MultiTurn(Tools(('tests.agents.test_tools:look',), servers=({COMMAND!r},)), turns=2)"
    found = parse(text)
    assert isinstance(found, MultiTurn)
    assert parse(show(found)) == found
    assert sorted(found.env().tools) == ["add", "divide", "draw", "look"]


def test_the_toy_is_told_of_a_servers_tools() -> None:
    tools = Tools(servers=(COMMAND,), calling=Calling(told="system"))
    ((trace,),) = MultiTurn(tools, Sampling(limit=4), turns=1).run(toy_model(), [question("a", "b")], 1, 0)
    assert '"name": "divide"' in trace.messages[0].content


def test_the_server_ends_with_the_program() -> None:
    code = (
        "from everlearn.agents.tools import Tools\n"
        f"tools = Tools(servers=({COMMAND!r},))().tools\n"
        "print(tools['add'].call({'number': 1}))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    total, process = re.findall(r"\d+", done.stdout)
    assert total == "1"
    with pytest.raises(ProcessLookupError):
        os.kill(int(process), 0)


@pytest.mark.parametrize("command", ["no-such-program", f"{shlex.quote(sys.executable)} -c pass"])
def test_a_server_that_does_not_start_is_named(command: str) -> None:
    with pytest.raises(ConfigError, match=f"the MCP server {re.escape(repr(command))} cannot be used: "):
        Tools(servers=(command,))()
