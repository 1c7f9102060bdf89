"""Servers of the Model Context Protocol as tools: what needs `mcp` is in this file."""

import asyncio
import atexit
import shlex
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import cache, partial
from threading import Thread, current_thread
from typing import Any

from mcp import Client, StdioServerParameters  # type: ignore[import-not-found, unused-ignore]

from everlearn.agents.calls import tried
from everlearn.agents.tools import Tool
from everlearn.errors import ConfigError

SECONDS = 60.0
"""Most time in which a server has to say what it offers."""


@cache
def tools_of(command: str) -> tuple[Tool, ...]:
    """The tools of a server, which is started once and serves until the program ends.

    Of a result the model is told the texts, and of what is no text its kind. A server sees of the environment's
    variables a few alone (PATH, HOME); others are set by a command that begins with `env NAME=value`.

    Args:
        command: starts a server that speaks over stdin and stdout; split as a shell does.

    Raises:
        ConfigError: if it does not start, or says nothing in SECONDS.
    """
    ready: Future[tuple[Tool, ...]] = Future()
    Thread(target=_serve, args=(command, ready), daemon=True).start()
    try:
        return ready.result(SECONDS)
    except TimeoutError as error:
        raise ConfigError(f"the MCP server {command!r} said nothing in {SECONDS:g} seconds; run it by hand.") from error


def _serve(command: str, ready: Future[tuple[Tool, ...]]) -> None:
    ended = tried(lambda: asyncio.run(_connected(command, ready)))
    if not ready.done():
        ready.set_exception(ConfigError(f"the MCP server {command!r} cannot be used: {ended.error}; run it by hand."))


async def _connected(command: str, ready: Future[tuple[Tool, ...]]) -> None:
    program, *arguments = shlex.split(command)
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    async with Client(StdioServerParameters(command=program, args=arguments)) as client:
        page = await client.list_tools()
        found = list(page.tools)
        while page.next_cursor:
            page = await client.list_tools(cursor=page.next_cursor)
            found += page.tools
        ready.set_result(tuple(Tool(_schema(tool), partial(_call, client, loop, tool.name)) for tool in found))
        atexit.register(_end, partial(loop.call_soon_threadsafe, stop.set), current_thread())
        await stop.wait()


def _end(stop: Callable[[], object], thread: Thread) -> None:
    stop()
    thread.join(SECONDS)  # a server that does not end by itself is ended


def _schema(tool: Any) -> Mapping[str, Any]:
    told = {"name": tool.name, "description": tool.description or "", "parameters": tool.input_schema}
    return {"type": "function", "function": told}


def _call(client: Client, loop: asyncio.AbstractEventLoop, name: str, arguments: Mapping[str, Any]) -> str:
    result = asyncio.run_coroutine_threadsafe(client.call_tool(name, dict(arguments)), loop).result()
    text = "\n".join(block.text if block.type == "text" else f"[{block.type}]" for block in result.content)
    if result.is_error:
        raise RuntimeError(text)
    return text
