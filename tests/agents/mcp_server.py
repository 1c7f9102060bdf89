"""A server of the Model Context Protocol, over stdin and stdout: `python mcp_server.py`."""

import base64
import os

from mcp.server.mcpserver import Image, MCPServer

server = MCPServer("numbers")
total = 0


@server.tool()
def divide(a: float, b: float = 2.0) -> float:
    """Divide two numbers."""
    return a / b


@server.tool()
def add(number: int) -> str:
    """Add to a total that the server keeps."""
    global total
    total += number
    return f"{total} by {os.getpid()}"


@server.tool()
def draw() -> list[Image | str]:
    """Draw a point."""
    return ["a point:", Image(data=base64.b64decode("R0lGODlhAQABAAAAACw="), format="gif")]


if __name__ == "__main__":
    server.run()
