"""A client that somebody else wrote: an SDK in a process of its own, told over pipes what to do.

Each SDK has a small driver program (`sdk_*`). It reads commands and writes events, one JSON object a line:

    {"do": "connect", "id": 1, "url": ..., "headers": {...}, "command": [...]}     one of url and command
    {"do": "request", "id": 2, "method": ..., "params": {...}}      also subscribe {uri}, level {level}, close
    {"do": "cancel", "id": 2}
    {"id": 2, "result": {...}}  {"id": 2, "error": {"code", "message", "data"}}
    {"progress": 2, "params": {...}}  {"note": method, "params": {...}}  {"question": method}
"""

from __future__ import annotations

import asyncio
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drivers.client import PATIENCE, ROOTS, SAMPLED, USED, PERSON, Ears, RpcError, capabilities

HERE = Path(__file__).resolve().parent
ENDED = "the driver of the SDK ended; see its log"


@dataclass(frozen=True)
class Sdk:
    """One release of an SDK as a client, and what of the checks its API cannot do."""

    name: str
    revision: str
    argv: tuple[str, ...]
    skips: frozenset[str] = frozenset({"tasks"})
    # The code with which it reports a missing resource, where that is not the server's.
    not_found: int | None = None
    # It reaches the mesh over stdio, through `outrigger connect`.
    over_connect: bool = False
    over_sse: bool = False


@dataclass(frozen=True)
class Place:
    """Where to connect: over HTTP, or to a child that speaks stdio."""

    url: str | None = None
    headers: dict[str, str] | None = None
    command: tuple[str, ...] | None = None


class Driver:
    """The process of one SDK; it serves one pair after the other."""

    def __init__(self, sdk: Sdk, log: Path, environment: dict[str, str]):
        self.sdk, self.log, self.environment = sdk, log, environment
        self.client: SdkClient | None = None
        self.ids = itertools.count(1)

    async def __aenter__(self) -> Driver:
        with open(self.log, "wb") as log:
            self.child = await asyncio.create_subprocess_exec(
                *self.sdk.argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log,
                limit=1 << 24, env=self.environment,
            )
        self.reading = asyncio.ensure_future(self.read())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.child.stdin.close()
        try:
            await asyncio.wait_for(self.child.wait(), 10)
        except TimeoutError:
            self.child.kill()
        self.reading.cancel()

    async def read(self) -> None:
        async for line in self.child.stdout:
            if self.client:
                await self.client.event(json.loads(line))
        if self.client:
            self.client.ended()

    async def tell(self, command: dict) -> None:
        self.child.stdin.write(json.dumps(command).encode() + b"\n")
        await self.child.stdin.drain()


class SdkClient(Ears):
    """Looks to the checks like the raw client."""

    def __init__(self, driver: Driver, place: Place):
        super().__init__(driver.sdk.revision)
        self.not_found = driver.sdk.not_found or self.not_found
        self.driver, self.place = driver, place
        self.pending: dict[int, asyncio.Future] = {}
        self.tokens: dict[int, Any] = {}

    async def __aenter__(self) -> SdkClient:
        self.driver.client = self
        answers = {"roots/list": ROOTS, "sampling/createMessage": SAMPLED, "tools": USED, "form": PERSON}
        where = {"url": self.place.url, "headers": self.place.headers, "command": self.place.command}
        told = await self.do("connect", capabilities=capabilities(self.revision), answers=answers, **where)
        if told["revision"] not in (None, self.revision):
            raise RuntimeError(f"negotiated {told['revision']}, wanted {self.revision}")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.do("close")

    async def do(self, what: str, token: Any = None, **more: Any) -> Any:
        if self.driver.reading.done():
            raise RuntimeError(ENDED)
        own = next(self.driver.ids)
        future = self.pending[own] = asyncio.get_running_loop().create_future()
        self.tokens[own] = token
        await self.driver.tell({"do": what, "id": own, "progress": token is not None, **more})
        try:
            return await asyncio.wait_for(future, PATIENCE)
        except TimeoutError:
            raise RuntimeError(f"{more.get('method', what)}: no answer in {PATIENCE:.0f} s") from None

    async def request(self, method: str, params: dict | None = None) -> dict:
        return await self.do("request", method=method, params=params or {})

    async def call(self, name: str, arguments: dict | None = None, token: Any = None, **more: Any) -> dict:
        params = {"name": name, "arguments": arguments or {}, **more}
        return await self.do("request", token, method="tools/call", params=params)

    async def cancel_call(self, name: str, arguments: dict, token: Any) -> None:
        params = {"name": name, "arguments": arguments}
        call = asyncio.ensure_future(self.do("request", token, method="tools/call", params=params))
        await self.saw("notifications/progress", lambda p: p.get("progressToken") == token)
        own = next(own for own, t in self.tokens.items() if t == token)
        await self.driver.tell({"do": "cancel", "id": own})
        # Each SDK ends a cancelled call with an error of its own.
        await asyncio.gather(call, return_exceptions=True)

    async def set_level(self, level: str) -> None:
        await self.do("level", level=level)

    async def subscribe(self, uri: str) -> None:
        await self.do("subscribe", uri=uri)

    async def event(self, event: dict) -> None:
        if "progress" in event:
            params = {**event["params"], "progressToken": self.tokens.get(event["progress"])}
            await self.heard("notifications/progress", params)
        elif "note" in event:
            await self.heard(event["note"], event.get("params") or {})
        elif "question" in event:
            self.questions.append(event["question"])
        elif (future := self.pending.pop(event["id"], None)) and not future.done():
            if "error" in event:
                error = event["error"]
                future.set_exception(RpcError(error.get("code", 0), error["message"], error.get("data")))
            else:
                future.set_result(event.get("result"))

    def ended(self) -> None:
        for future in self.pending.values():
            if not future.done():
                future.set_exception(RuntimeError(ENDED))
