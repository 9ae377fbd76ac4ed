#!/usr/bin/env python3
"""Drives the client of the Python SDK, of either generation: sdk_py.py MODE, with MODE `legacy` or a revision. See sdk.py
for the commands."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import json
import sys
from typing import Any

import mcp

SECOND = importlib.metadata.version("mcp").startswith("2.")
if SECOND:
    import httpx2
    import mcp_types as types
    from mcp.client.streamable_http import streamable_http_client
else:
    from mcp import types
    from mcp.client.streamable_http import streamablehttp_client

MODE = sys.argv[1]
LEVEL = "io.modelcontextprotocol/logLevel"


def out(event: dict) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def plain(value: Any) -> Any:
    return value.model_dump(by_alias=True, exclude_none=True, mode="json")


class Connection:
    """One connection. What the server asks is answered as the runner said at the beginning."""

    def __init__(self, command: dict):
        self.answers, self.declared = command["answers"], command["capabilities"]
        self.where = command
        self.level: str | None = None
        self.stack = contextlib.AsyncExitStack()

    async def on_roots(self, _: Any) -> Any:
        out({"question": "roots/list"})
        return types.ListRootsResult.model_validate(self.answers["roots/list"])

    async def on_sampling(self, _: Any, params: Any) -> Any:
        out({"question": "sampling/createMessage"})
        if getattr(params, "tools", None):
            return types.CreateMessageResultWithTools.model_validate(self.answers["tools"])
        return types.CreateMessageResult.model_validate(self.answers["sampling/createMessage"])

    async def on_elicitation(self, _: Any, params: Any) -> Any:
        out({"question": "elicitation/create"})
        form = getattr(params, "mode", "form") == "form"
        return types.ElicitResult(action="accept", **({"content": self.answers["form"]} if form else {}))

    async def on_message(self, message: Any) -> None:
        message = getattr(message, "root", message)
        if isinstance(getattr(message, "method", None), str) and message.method.startswith("notifications/"):
            if message.method not in ("notifications/progress", "notifications/cancelled"):
                out({"note": message.method, "params": plain(message.params) if message.params else {}})

    async def open(self) -> dict:
        callbacks = {
            "list_roots_callback": self.on_roots,
            "sampling_callback": self.on_sampling,
            "elicitation_callback": self.on_elicitation,
            "message_handler": self.on_message,
            "sampling_capabilities": types.SamplingCapability.model_validate(self.declared["sampling"]),
        }
        url, headers = self.where["url"], self.where["headers"]
        if SECOND:
            timeout = httpx2.Timeout(30, read=120)
            http = httpx2.AsyncClient(headers=headers, trust_env=False, timeout=timeout)
            await self.stack.enter_async_context(http)
            reach = streamable_http_client(url, http_client=http)
            self.client = await self.stack.enter_async_context(mcp.Client(reach, mode=MODE, **callbacks))
            self.session = self.client.session
            return {"revision": self.client.protocol_version}
        read, write, *_ = await self.stack.enter_async_context(streamablehttp_client(url, headers=headers))
        self.client = self.session = await self.stack.enter_async_context(mcp.ClientSession(read, write, **callbacks))
        return {"revision": (await self.client.initialize()).protocolVersion}

    async def request(self, command: dict) -> Any:
        method, params = command["method"], command["params"]

        async def progress(done: float, total: float | None, message: str | None) -> None:
            out({"progress": command["id"], "params": {"progress": done, "total": total, "message": message}})

        more = {"meta": {LEVEL: self.level}} if self.level and MODE != "legacy" else {}
        page = {"cursor": params.get("cursor")}
        fresh = {"cache_mode": "bypass"} if SECOND else {}
        uri = params.get("uri")
        client = self.client
        calls = {
            "tools/call": lambda: client.call_tool(
                params["name"], params.get("arguments"), progress_callback=progress if command["progress"] else None, **more
            ),
            "tools/list": lambda: client.list_tools(**page),
            "prompts/list": lambda: client.list_prompts(**page),
            "prompts/get": lambda: client.get_prompt(params["name"], params.get("arguments")),
            "resources/list": lambda: client.list_resources(**page),
            "resources/templates/list": lambda: client.list_resource_templates(**page),
            "resources/read": lambda: client.read_resource(uri, **fresh),
            "completion/complete": lambda: client.complete(self.reference(params["ref"]), params["argument"]),
            "ping": lambda: client.send_ping(),
        }
        if method in calls:
            return plain(await calls[method]())
        raw = types.PingRequest.model_construct(method=method, params=None)
        return plain(await self.session.send_request(raw if SECOND else types.ClientRequest.model_construct(root=raw),
                                                     types.EmptyResult))

    def reference(self, ref: dict) -> Any:
        of_prompt = ref["type"] == "ref/prompt"
        return (types.PromptReference if of_prompt else types.ResourceTemplateReference).model_validate(ref)

    async def subscribe(self, command: dict) -> dict:
        if MODE == "legacy":
            return plain(await self.client.subscribe_resource(command["uri"]))
        listening = asyncio.get_running_loop().create_future()
        asyncio.ensure_future(self.listen(command["uri"], listening))
        return await listening

    async def listen(self, uri: str, listening: asyncio.Future) -> None:
        async with self.client.listen(resource_subscriptions=[uri]) as events:
            listening.set_result({})
            async for event in events:
                out({"note": "notifications/resources/updated", "params": {"uri": getattr(event, "uri", None)}})

    async def set_level(self, command: dict) -> dict:
        if MODE == "legacy":
            await self.client.set_logging_level(command["level"])
        self.level = command["level"]
        return {}


async def run(command: dict, act: Any) -> None:
    try:
        out({"id": command["id"], "result": await act(command)})
    except asyncio.CancelledError:
        out({"id": command["id"], "error": {"code": 0, "message": "cancelled", "data": None}})
    except Exception as error:  # noqa: BLE001
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        told = getattr(error, "error", None)
        code, data = (told.code, told.data) if told else (0, None)
        out({"id": command["id"], "error": {"code": code, "message": f"{type(error).__name__}: {error}", "data": data}})


async def main() -> None:
    reader = asyncio.StreamReader(limit=1 << 24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    connection: Connection | None = None
    running: dict[int, asyncio.Task] = {}
    async for line in reader:
        command = json.loads(line)
        match command["do"]:
            # Contexts end in the task that began them.
            case "connect":
                connection = Connection(command)
                await run(command, lambda _: connection.open())
            case "close":
                for task in running.values():
                    task.cancel()

                async def close(_: dict) -> dict:
                    await connection.stack.aclose()
                    return {}

                await run(command, close)
            case "cancel":
                running[command["id"]].cancel()
            case what:
                act = {"request": connection.request, "subscribe": connection.subscribe, "level": connection.set_level}
                running[command["id"]] = asyncio.ensure_future(run(command, act[what]))


asyncio.run(main())
