"""Client transports: Streamable HTTP of both eras, HTTP+SSE, and stdio (a child such as `outrigger connect`)."""

from __future__ import annotations

import asyncio
import json
from typing import Any, AsyncIterator
from urllib.parse import urljoin

import httpx2

MODERN = "2026-07-28"
P = "io.modelcontextprotocol/"
MIRRORED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri",
            "tasks/get": "taskId", "tasks/update": "taskId", "tasks/cancel": "taskId"}
ACCEPT = {"Accept": "application/json, text/event-stream"}


async def events(response: httpx2.Response) -> AsyncIterator[tuple[str, str]]:
    """Events of a stream: their kind and data."""
    kind, data = "message", []
    async for line in response.aiter_lines():
        if not line:
            if data and "".join(data):
                yield kind, "\n".join(data)
            kind, data = "message", []
        elif line.startswith("event:"):
            kind = line[6:].strip()
        elif line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))


class Tasks:
    """The reading ends of requests under way; each failure is kept, because nobody awaits them."""

    def __init__(self) -> None:
        self.running: set[asyncio.Task] = set()

    def start(self, work: Any) -> asyncio.Task:
        task = asyncio.ensure_future(work)
        self.running.add(task)
        task.add_done_callback(self.running.discard)
        return task

    async def end(self) -> None:
        for task in list(self.running):
            task.cancel()
        await asyncio.gather(*self.running, return_exceptions=True)


class Http:
    """Streamable HTTP. A modern client says everything in each request; a legacy one has a session and a GET stream."""

    receive: Any

    def __init__(self, http: httpx2.AsyncClient, url: str, revision: str):
        self.http, self.url, self.revision = http, url, revision
        self.session: dict[str, str] = {}
        self.tasks = Tasks()
        self.requests: dict[Any, asyncio.Task] = {}

    async def open(self) -> None:
        pass

    def headers(self, message: dict) -> dict[str, str]:
        if self.revision < MODERN:
            return {**ACCEPT, **self.session}
        params = message.get("params", {})
        out = {**ACCEPT, "MCP-Protocol-Version": params["_meta"][P + "protocolVersion"], "Mcp-Method": message["method"]}
        if name := MIRRORED.get(message["method"]):
            out["Mcp-Name"] = params[name]
        return out

    async def send(self, message: dict) -> None:
        task = self.tasks.start(self.post(message))
        if "method" not in message or "id" not in message:
            await task
        else:
            self.requests[message["id"]] = task

    async def post(self, message: dict) -> None:
        try:
            async with self.http.stream("POST", self.url, json=message, headers=self.headers(message)) as response:
                await self.read(message, response)
        except httpx2.HTTPError as error:
            await self.fail(message, f"{type(error).__name__}: {error}")

    async def read(self, message: dict, response: httpx2.Response) -> None:
        if message.get("method") == "initialize" and "mcp-session-id" in response.headers:
            self.session["Mcp-Session-Id"] = response.headers["mcp-session-id"]
        if response.headers.get("content-type", "").startswith("text/event-stream"):
            async for _, data in events(response):
                await self.receive(json.loads(data))
            return
        body = await response.aread()
        expected = 202 if "id" not in message or "method" not in message else 200
        if body and (response.status_code == 200 or "id" in json.loads(body)):
            await self.receive(json.loads(body))
        elif response.status_code != expected:
            await self.fail(message, f"HTTP {response.status_code} {body[:200]!r}")

    async def fail(self, message: dict, text: str) -> None:
        """What HTTP refused becomes the request's error; for a notification it is raised."""
        if "method" in message and "id" in message:
            await self.receive({"id": message["id"], "error": {"code": 0, "message": text}})
        else:
            raise RuntimeError(f"{message.get('method', 'response')}: {text}")

    async def opened_session(self, revision: str) -> None:
        if revision >= "2025-06-18":
            self.session["MCP-Protocol-Version"] = revision
        self.tasks.start(self.get())

    async def get(self) -> None:
        headers = {"Accept": "text/event-stream", **self.session}
        async with self.http.stream("GET", self.url, headers=headers) as response:
            if response.status_code == 200:
                async for _, data in events(response):
                    await self.receive(json.loads(data))

    async def abandon(self, request_id: Any) -> bool:
        task = self.requests.pop(request_id)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return True

    async def close(self) -> None:
        await self.tasks.end()
        if "Mcp-Session-Id" in self.session:
            await self.http.delete(self.url, headers=self.session)
        await self.http.aclose()


class Sse:
    """HTTP+SSE of 2024-11-05: a GET stream for everything inwards, POSTs outwards."""

    receive: Any

    def __init__(self, http: httpx2.AsyncClient, url: str):
        self.http, self.url = http, url
        self.tasks = Tasks()
        self.endpoint: asyncio.Future = asyncio.get_running_loop().create_future()

    async def open(self) -> None:
        reading = self.tasks.start(self.read())
        await asyncio.wait({reading, self.endpoint}, return_when=asyncio.FIRST_COMPLETED, timeout=20)
        if not self.endpoint.done():
            raise RuntimeError("no endpoint event" if not reading.done() else f"no stream: {reading.exception()}")

    async def read(self) -> None:
        async with self.http.stream("GET", self.url, headers={"Accept": "text/event-stream"}) as response:
            if response.status_code != 200:
                raise RuntimeError(f"HTTP {response.status_code}")
            async for kind, data in events(response):
                if kind == "endpoint":
                    self.endpoint.set_result(urljoin(self.url, data))
                else:
                    await self.receive(json.loads(data))

    async def send(self, message: dict) -> None:
        # Answers to questions are sent from within `read`, which must not wait for itself.
        response = await self.http.post(self.endpoint.result(), json=message)
        if response.status_code not in (200, 202, 204):
            raise RuntimeError(f"HTTP {response.status_code} {response.text[:200]}")

    async def opened_session(self, revision: str) -> None:
        pass

    async def abandon(self, request_id: Any) -> bool:
        return False

    async def close(self) -> None:
        await self.tasks.end()
        await self.http.aclose()


class Stdio:
    """A child that speaks lines."""

    receive: Any

    def __init__(self, argv: list[str], log: str):
        self.argv, self.log = argv, log
        self.tasks = Tasks()

    async def open(self) -> None:
        with open(self.log, "wb") as log:
            self.child = await asyncio.create_subprocess_exec(
                *self.argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log, limit=1 << 24
            )
        self.tasks.start(self.read())

    async def read(self) -> None:
        async for line in self.child.stdout:
            await self.receive(json.loads(line))

    async def send(self, message: dict) -> None:
        self.child.stdin.write(json.dumps(message).encode() + b"\n")
        await self.child.stdin.drain()

    async def opened_session(self, revision: str) -> None:
        pass

    async def abandon(self, request_id: Any) -> bool:
        return False

    async def close(self) -> None:
        self.child.stdin.close()
        try:
            await asyncio.wait_for(self.child.wait(), 10)
        except TimeoutError:
            self.child.kill()
        await self.tasks.end()
