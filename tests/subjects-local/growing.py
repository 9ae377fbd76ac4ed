"""A server made with the official Python SDK whose tools, prompts and resources grow by calls, in one session alone.

    growing.py [--http] [--silent]

`grow` adds a tool, a prompt and a resource of that name to the session of the call, and tells that session alone that its
lists have changed (with `--silent`, nobody); `again` tells it so many times that nothing is, and that the resource `update` has
changed, if it is given and subscribed to. Over HTTP it prints the port that it listens at.
"""

import argparse
import socket
import weakref

import anyio
import mcp.types as types
import uvicorn
from mcp.server.lowlevel import NotificationOptions, Server
from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.server.stdio import stdio_server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.applications import Starlette
from starlette.routing import Mount

options = argparse.ArgumentParser()
options.add_argument("--http", action="store_true")
options.add_argument("--silent", action="store_true")
options = options.parse_args()

server = Server("growing", version="1")
grown = weakref.WeakKeyDictionary()
subscribed = weakref.WeakKeyDictionary()
NAME = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
TIMES = {"type": "object", "properties": {"times": {"type": "integer"}}, "required": ["times"]}


def own():
    return grown.setdefault(server.request_context.session, [])


@server.list_tools()
async def tools() -> list[types.Tool]:
    fixed = [types.Tool(name="grow", inputSchema=NAME), types.Tool(name="again", inputSchema=TIMES)]
    return fixed + [types.Tool(name=name, inputSchema={"type": "object"}) for name in own()]


@server.list_prompts()
async def prompts() -> list[types.Prompt]:
    return [types.Prompt(name=name) for name in ["first", *own()]]


@server.list_resources()
async def resources() -> list[types.Resource]:
    return [types.Resource(uri=f"grown://{name}", name=name) for name in ["first", *own()]]


@server.read_resource()
async def read(uri):
    return [ReadResourceContents(content=f"read {uri}", mime_type="text/plain")]


@server.subscribe_resource()
async def subscribe(uri):
    subscribed.setdefault(server.request_context.session, set()).add(str(uri))


@server.unsubscribe_resource()
async def unsubscribe(uri):
    subscribed.setdefault(server.request_context.session, set()).discard(str(uri))


@server.get_prompt()
async def prompt(name, arguments):
    message = types.PromptMessage(role="user", content=types.TextContent(type="text", text=f"say {name}"))
    return types.GetPromptResult(messages=[message])


async def tell(session):
    await session.send_tool_list_changed()
    await session.send_prompt_list_changed()
    await session.send_resource_list_changed()


@server.call_tool(validate_input=False)
async def call(name, arguments):
    session = server.request_context.session
    if name == "grow":
        own().append(arguments["name"])
        if not options.silent:
            await tell(session)
    elif name == "again":
        for _ in range(arguments["times"]):
            await tell(session)
        if arguments.get("update") in subscribed.get(session, ()):
            await session.send_resource_updated(arguments["update"])
    elif name not in own():
        raise ValueError(f"there is no {name} here")
    return [types.TextContent(type="text", text=f"{name} of {len(own())}")]


def about():
    told = not options.silent
    about = server.create_initialization_options(
        NotificationOptions(tools_changed=told, prompts_changed=told, resources_changed=told))
    # The SDK always says that it does not.
    about.capabilities.resources.subscribe = True
    return about


async def over_stdio():
    async with stdio_server() as (incoming, outgoing):
        await server.run(incoming, outgoing, about())


def over_http():
    manager = StreamableHTTPSessionManager(app=server)
    app = Starlette(routes=[Mount("/", app=manager.handle_request)], lifespan=lambda _: manager.run())
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    print(listening.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])


if options.http:
    over_http()
else:
    anyio.run(over_stdio)
