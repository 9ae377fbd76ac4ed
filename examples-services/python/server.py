"""The {{name}} service: two small text tools, a resource and a prompt, over MCP.

    python server.py                     stdio: what a sidecar or a desktop client starts
    python server.py --port 9001         Streamable HTTP on http://127.0.0.1:9001/mcp

Standard output belongs to the protocol, so log with `logging` (it goes to standard error) and never with `print`.
"""

import argparse
import re
import unicodedata
from typing import Annotated

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from pydantic import BaseModel, Field

MAX_TEXT = 100_000  # characters; a caller's mistake must not become our memory problem

mcp = MCPServer("{{name}}", version="0.1.0", instructions="Small text utilities.")
READ_ONLY = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)
Text = Annotated[str, Field(max_length=MAX_TEXT, description="The text to look at.")]


class Counts(BaseModel):
    """What countWords returns; its fields become the tool's output schema."""

    characters: int
    words: int
    lines: int


@mcp.tool(name="countWords", annotations=READ_ONLY)
def count_words(text: Text) -> Counts:
    """Counts the characters, words and lines of a text."""
    return Counts(characters=len(text), words=len(text.split()), lines=len(text.splitlines()))


@mcp.tool(name="slugify", annotations=READ_ONLY, structured_output=False)
def slugify(text: Text) -> str:
    """Turns a title into a short name that is safe in URLs and file names."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")
    if not slug:
        raise ToolError("the text has no letter or digit that a slug could keep")
    return slug


@mcp.resource("info://about", name="about", mime_type="text/plain")
def about() -> str:
    """What this service is."""
    return "{{name}}: countWords and slugify, made from the Outrigger Python template."


@mcp.prompt(name="shorten")
def shorten(text: str, words: str = "50") -> str:
    """Asks for a shorter version of a text."""
    return f"Rewrite the following in at most {words} words and keep its meaning.\n\n{text}"


def main() -> None:
    """Serves stdio, or Streamable HTTP when --port is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, help="serve Streamable HTTP on this port instead of stdio")
    parser.add_argument("--host", default="127.0.0.1", help="address for --port (default: loopback only)")
    args = parser.parse_args()
    if args.port is None:
        mcp.run()
    else:
        mcp.run("streamable-http", host=args.host, port=args.port)


if __name__ == "__main__":
    main()
