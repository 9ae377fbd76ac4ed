#!/usr/bin/env python3
"""Test subject that speaks 2026-07-28 AND the handshake revisions (mcp 2.x SDK).

server-everything (2026.8.31) stops at 2025-11-25; this one has tools, resources and prompts of the same names, so that
mesh_client.* can run against it with MESH_MODE=2026-07-28 or auto.
  modern_server.py            stdio
  modern_server.py PORT       streamable HTTP on 127.0.0.1:PORT/mcp   (MODERN_HOST for another address)
"""

import os
import sys
from typing import Annotated

import anyio
from mcp.server.mcpserver import Context, Elicit, ListRoots, MCPServer, Resolve, Sample
from mcp_types import Completion, CreateMessageResult, ImageContent, ListRootsResult, SamplingMessage, TextContent
from pydantic import BaseModel

m = MCPServer("modern-everything")
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


class Weather(BaseModel):
    temperature: float
    conditions: str


class Who(BaseModel):
    name: str


@m.tool(name="echo", structured_output=False)
def echo(message: str) -> str:
    return "Echo: " + message


@m.tool(name="get-sum", structured_output=False)
def get_sum(a: float, b: float) -> str:
    return f"The sum is {a + b:g}."


@m.tool(name="get-structured-content")
def structured(location: str) -> Weather:
    return Weather(temperature=33, conditions="Cloudy in " + location)


@m.tool(name="get-tiny-image", structured_output=False)
def image() -> list[ImageContent]:
    return [ImageContent(type="image", data=PNG, mime_type="image/png")]


@m.tool(name="trigger-long-running-operation")
async def long(ctx: Context, duration: float = 10, steps: int = 5) -> str:
    for i in range(steps):
        await anyio.sleep(duration / steps)
        await ctx.report_progress(i + 1, steps)
    return "Long running operation completed."


def ask() -> Elicit[Who]:
    return Elicit("Who are you?", Who)


def sample() -> Sample:
    return Sample([SamplingMessage(role="user", content=TextContent(type="text", text="hi"))], max_tokens=10)


def roots() -> ListRoots:
    return ListRoots()


@m.tool(name="trigger-elicitation-request")
async def elicit(who: Annotated[Who, Resolve(ask)]) -> str:
    return "User provided: " + who.name


@m.tool(name="trigger-sampling-request")
async def sampling(r: Annotated[CreateMessageResult, Resolve(sample)], prompt: str = "") -> str:
    return "LLM sampling result: " + getattr(r.content, "text", "")


@m.tool(name="get-roots-list")
async def get_roots(r: Annotated[ListRootsResult, Resolve(roots)]) -> str:
    return "Roots: " + ", ".join(str(x.uri) for x in r.roots)


@m.resource("demo://resource/dynamic/text/{index}")
def rtext(index: str) -> str:
    return "Resource " + index


@m.resource("demo://resource/dynamic/blob/{index}", mime_type="application/octet-stream")
def rblob(index: str) -> bytes:
    return b"blob " + index.encode()


@m.prompt(name="args-prompt")
def args_prompt(city: str, state: str = "") -> str:
    return f"What's weather in {city}{state}?"


@m.prompt(name="completable-prompt")
def completable(department: str) -> str:
    return "Promote someone in " + department


@m.completion()
async def complete(ref, argument, context):
    return Completion(values=[x for x in ("Engineering", "Sales") if x.startswith(argument.value)])


if __name__ == "__main__":
    if len(sys.argv) > 1:
        transport = sys.argv[2] if len(sys.argv) > 2 else "streamable-http"
        m.run(transport, host=os.environ.get("MODERN_HOST", "127.0.0.1"), port=int(sys.argv[1]))
    else:
        m.run()
