"""A raw MCP client that speaks exactly one revision, over any transport.

It notices what its revision does not allow in what it receives (`sins`), answers the server's questions with fixed
answers, and keeps the notifications for the checks to look at.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Any, Awaitable, Callable, Protocol

MODERN = "2026-07-28"
P = "io.modelcontextprotocol/"
# Seconds for one answer.
PATIENCE = 25.0
ROUNDS = 8
INFO = {"name": "matrix", "version": "1"}

PERSON = {"name": "Ada"}
ROOTS = {"roots": [{"uri": "file:///root", "name": "root"}]}
SAMPLED = {"role": "assistant", "model": "m", "content": {"type": "text", "text": "sampled"}}
USED = {"role": "assistant", "model": "m", "stopReason": "toolUse",
        "content": {"type": "tool_use", "id": "t1", "name": "dice", "input": {}}}


class RpcError(Exception):
    """A JSON-RPC error as the client got it."""

    def __init__(self, code: int, message: str, data: Any = None):
        super().__init__(f"{code}: {message}")
        self.code, self.data = code, data


class Transport(Protocol):
    """How messages get to the mesh; what comes back goes to `receive`."""

    receive: Callable[[dict], Awaitable[None]]

    async def open(self) -> None: ...
    async def send(self, message: dict) -> None: ...
    async def opened_session(self, revision: str) -> None: ...
    async def abandon(self, request_id: Any) -> bool: ...
    async def close(self) -> None: ...


def capabilities(revision: str) -> dict:
    """All that a client of this revision can offer."""
    caps: dict = {"roots": {"listChanged": True} if revision < MODERN else {}, "sampling": {}}
    if revision >= "2025-06-18":
        caps["elicitation"] = {}
    if revision >= "2025-11-25":
        caps["elicitation"] = {"form": {}, "url": {}}
        caps["sampling"] = {"tools": {}}
    if revision >= MODERN:
        caps["extensions"] = {P + "tasks": {}}
    return caps


def answer(method: str, params: dict) -> dict:
    """What this client answers to a question."""
    if method == "roots/list":
        return ROOTS
    if method == "sampling/createMessage":
        return USED if params.get("tools") else SAMPLED
    return {"action": "accept"} if params.get("mode") == "url" else {"action": "accept", "content": PERSON}


class Ears:
    """What every client keeps for the checks: notifications, the questions it was asked, and what its peer did wrong."""

    def __init__(self, revision: str):
        self.revision = revision
        # The code of a missing resource.
        self.not_found = -32602 if self.modern else -32002
        self.notes: list[tuple[str, dict]] = []
        self.questions: list[str] = []
        self.sins: list[str] = []
        self.news = asyncio.Condition()

    @property
    def modern(self) -> bool:
        return self.revision >= MODERN

    async def heard(self, method: str, params: dict) -> None:
        self.notes.append((method, params))
        async with self.news:
            self.news.notify_all()

    async def saw(self, method: str, wanted: Callable[[dict], bool] = lambda _: True) -> dict:
        """Waits for a notification."""
        def find() -> dict | None:
            return next((p for m, p in self.notes if m == method and wanted(p)), None)

        async with self.news:
            try:
                await asyncio.wait_for(self.news.wait_for(lambda: find() is not None), PATIENCE / 2)
            except TimeoutError:
                raise RuntimeError(f"no {method} came") from None
        return find() or {}


class Client(Ears):
    def __init__(self, revision: str, transport: Transport):
        super().__init__(revision)
        self.transport = transport
        transport.receive = self.receive
        self.ids = itertools.count(1)
        self.pending: dict[Any, asyncio.Future] = {}
        self.tokens: set[Any] = set()
        self.server: dict = {}
        self.level: str | None = None
        self.listening: asyncio.Future | None = None

    async def __aenter__(self) -> Client:
        await self.transport.open()
        if self.modern:
            self.server = await self.request("server/discover")
        else:
            params = {"protocolVersion": self.revision, "capabilities": capabilities(self.revision), "clientInfo": INFO}
            self.server = await self.request("initialize", params)
            if self.server["protocolVersion"] != self.revision:
                raise RuntimeError(f"asked for {self.revision}, got {self.server['protocolVersion']}")
            await self.transport.opened_session(self.revision)
            await self.notify("notifications/initialized")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.transport.close()

    # --- outwards
    def begin(self, method: str, params: dict | None = None) -> tuple[Any, dict, asyncio.Future]:
        own = next(self.ids)
        params = dict(params or {})
        if self.modern:
            meta = {P + "protocolVersion": self.revision, P + "clientCapabilities": capabilities(self.revision),
                    P + "clientInfo": INFO, **({P + "logLevel": self.level} if self.level else {})}
            params["_meta"] = {**meta, **params.get("_meta", {})}
        message = {"jsonrpc": "2.0", "id": own, "method": method}
        if params:
            message["params"] = params
        future = asyncio.get_running_loop().create_future()
        self.pending[own] = future
        return own, message, future

    async def request(self, method: str, params: dict | None = None) -> dict:
        """A request and its result; questions of a modern server are answered and the request is repeated."""
        for _ in range(ROUNDS):
            own, message, future = self.begin(method, params)
            try:
                await self.transport.send(message)
                result = await asyncio.wait_for(future, PATIENCE)
            except TimeoutError:
                raise RuntimeError(f"{method}: no answer in {PATIENCE:.0f} s") from None
            finally:
                self.pending.pop(own, None)
            if not self.modern:
                return result
            if result.get("resultType") not in ("complete", "input_required", "task"):
                self.sins.append(f"{method}: resultType {result.get('resultType')!r}")
            if result.get("resultType") != "input_required":
                return result
            params = dict(params or {})
            params["inputResponses"] = {k: self.question(q) for k, q in (result.get("inputRequests") or {}).items()}
            params.pop("requestState", None)
            if "requestState" in result:
                params["requestState"] = result["requestState"]
        raise RuntimeError(f"{method}: still asked after {ROUNDS} rounds")

    def question(self, asked: dict) -> dict:
        self.allowed(asked["method"], asked.get("params") or {})
        return answer(asked["method"], asked.get("params") or {})

    def allowed(self, method: str, params: dict) -> None:
        """Notes questions, and those that this client did not say it can answer."""
        self.questions.append(method)
        caps = capabilities(self.revision)
        kind = {"elicitation/create": "elicitation", "sampling/createMessage": "sampling", "roots/list": "roots"}.get(method)
        if method != "ping" and kind not in caps:
            self.sins.append(f"asked {method}")
        if params.get("mode") == "url" and "url" not in caps.get("elicitation", {}):
            self.sins.append("asked to visit a URL")
        if params.get("tools") and "tools" not in caps["sampling"]:
            self.sins.append("asked to sample with tools")

    async def notify(self, method: str, params: dict | None = None) -> None:
        await self.transport.send({"jsonrpc": "2.0", "method": method, **({"params": params} if params else {})})

    async def call(self, name: str, arguments: dict | None = None, token: Any = None, **more: Any) -> dict:
        params = {"name": name, "arguments": arguments or {}, **more}
        if token is not None:
            params["_meta"] = {"progressToken": token}
            self.tokens.add(token)
        try:
            return await self.request("tools/call", params)
        finally:
            self.tokens.discard(token)

    async def cancel_call(self, name: str, arguments: dict, token: Any) -> None:
        """Starts a call, cancels it after its first progress, in the revision's own way."""
        params = {"name": name, "arguments": arguments, "_meta": {"progressToken": token}}
        self.tokens.add(token)
        own, message, future = self.begin("tools/call", params)
        await self.transport.send(message)
        seen = asyncio.ensure_future(self.saw("notifications/progress", lambda p: p.get("progressToken") == token))
        await asyncio.wait({seen, future}, return_when=asyncio.FIRST_COMPLETED, timeout=PATIENCE)
        if not seen.done():
            seen.cancel()
            raise RuntimeError(f"no progress to begin with; {future.result() if future.done() else 'no answer'}")
        if not (self.modern and await self.transport.abandon(own)):
            await self.notify("notifications/cancelled", {"requestId": own, "reason": "not wanted"})
        self.pending.pop(own, None)

    async def set_level(self, level: str) -> None:
        if self.modern:
            self.level = level
        else:
            await self.request("logging/setLevel", {"level": level})

    async def subscribe(self, uri: str) -> None:
        if not self.modern:
            await self.request("resources/subscribe", {"uri": uri})
            return
        wanted = {"notifications": {"resourceSubscriptions": [uri]}}
        own, message, self.listening = self.begin("subscriptions/listen", wanted)
        await self.transport.send(message)
        ack = await self.saw("notifications/subscriptions/acknowledged")
        if ack.get("_meta", {}).get(P + "subscriptionId") != own or ack["notifications"].get("resourceSubscriptions") != [uri]:
            raise RuntimeError(f"acknowledged {ack}")

    async def listen_to_lists(self) -> None:
        """Older revisions tell of changes without being asked."""
        if self.modern:
            wanted = {"notifications": {"toolsListChanged": True}}
            own, message, self.listening = self.begin("subscriptions/listen", wanted)
            await self.transport.send(message)
            await self.saw("notifications/subscriptions/acknowledged",
                           lambda p: p.get("_meta", {}).get(P + "subscriptionId") == own)

    # --- inwards
    async def receive(self, message: dict) -> None:
        if "method" in message and "id" in message:
            await self.asked(message)
        elif "method" in message:
            await self.heard(message["method"], message.get("params") or {})
        else:
            self.answered(message)

    async def asked(self, message: dict) -> None:
        if self.modern:
            self.sins.append(f"request {message['method']}")
        params = message.get("params") or {}
        self.allowed(message["method"], params)
        result = {} if message["method"] == "ping" else answer(message["method"], params)
        await self.transport.send({"jsonrpc": "2.0", "id": message["id"], "result": result})

    async def heard(self, method: str, params: dict) -> None:
        if method == "notifications/progress" and params.get("progressToken") not in self.tokens:
            self.sins.append(f"progress for token {params.get('progressToken')!r}")
        known = {"progress", "message", "cancelled", "resources/updated", "resources/list_changed",
                 "tools/list_changed", "prompts/list_changed"}
        if self.modern:
            known |= {"subscriptions/acknowledged", "tasks"}
        elif self.revision >= "2025-11-25":
            known |= {"elicitation/complete", "tasks/status"}
        if method.removeprefix("notifications/") not in known:
            self.sins.append(f"notification {method}")
        await super().heard(method, params)

    def answered(self, message: dict) -> None:
        future = self.pending.get(message.get("id"))
        if future is None or future.done():
            self.sins.append(f"a response to no request: id {message.get('id')!r}")
        elif "error" in message:
            error = message["error"]
            future.set_exception(RpcError(error["code"], error["message"], error.get("data")))
        else:
            future.set_result(message["result"])
