"""A steady load of `echo` calls and what became of each: modern requests on kept connections, and the official client
in the older revision, which opens sessions and closes them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from dataclasses import dataclass

import anyio
import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from wire import Astray, Connection, Endpoint, call

# A call that has not ended by then hangs: longer than every timeout that a drill sets.
DEADLINE = 15.0
# Between two calls of one worker; the load is steady, not a benchmark.
PAUSE = 0.02


@dataclass(frozen=True)
class Outcome:
    """One call: when it began and ended, and how."""

    began: float
    ended: float
    tool: str
    kind: str

    @property
    def ok(self) -> bool:
        return self.kind == "ok"

    @property
    def answered(self) -> bool:
        """The mesh said so itself, rather than the connection breaking off."""
        return self.kind.startswith("HTTP")


class Load:
    """Runs between `with` and its end. `faults` are breaches of the common rules, whatever a drill tolerates."""

    def __init__(self, endpoint: Endpoint, tools: list[str], workers: int = 2, sessions: int = 1):
        self.endpoint, self.tools = endpoint, tools
        self.outcomes: list[Outcome] = []
        self.faults: list[str] = []
        self.ending = threading.Event()
        self.threads = [
            threading.Thread(target=self.modern, args=(f"w{n}", tool), daemon=True)
            for n in range(workers)
            for tool in tools
        ]
        self.threads += [threading.Thread(target=self.legacy, args=(f"s{n}",), daemon=True) for n in range(sessions)]

    def __enter__(self) -> Load:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        end = time.monotonic() + DEADLINE + 10
        for thread in self.threads:
            thread.join(max(0.0, end - time.monotonic()))
        stuck = sum(thread.is_alive() for thread in self.threads)
        if stuck:
            self.faults.append(f"{stuck} clients still wait after their deadline")

    def note(self, began: float, tool: str, kind: str) -> None:
        self.outcomes.append(Outcome(began, time.monotonic(), tool, kind))

    def modern(self, who: str, tool: str) -> None:
        connection, count = Connection(self.endpoint, DEADLINE), 0
        while not self.ending.wait(PAUSE):
            count += 1
            text, began = f"{who}-{tool}-{count}", time.monotonic()
            try:
                reply = connection.send(call(tool, {"message": text}))
                kind = reply.kind
                if kind == "ok" and text not in reply.text:
                    self.faults.append(f"asked {text}, got {reply.text[:60]!r}")
            except TimeoutError:
                kind = "hangs"
                self.faults.append(f"{text} had no end within {DEADLINE} s")
            except Astray as error:
                kind = "astray"
                self.faults.append(str(error))
            except Exception as error:  # noqa: BLE001 - every way to break off is an outcome
                kind = type(error).__name__
                self.ending.wait(0.1)
            self.note(began, tool, kind)
        connection.close()

    def legacy(self, who: str) -> None:
        asyncio.run(self.sessions(who))

    async def sessions(self, who: str) -> None:
        count = 0
        while not self.ending.is_set():
            count += 1
            try:
                await self.session(f"{who}-{count}")
            except Exception:  # noqa: BLE001 - noted call by call; a new session begins
                await asyncio.sleep(0.2)

    async def session(self, who: str) -> None:
        """One session of up to 20 calls; ends at the first that fails, because the session may be gone."""
        headers = {"Authorization": f"Bearer {self.endpoint.token}"} if self.endpoint.token else {}
        limits = httpx2.Timeout(DEADLINE, read=DEADLINE)
        began = time.monotonic()
        async with httpx2.AsyncClient(headers=headers, trust_env=False, timeout=limits) as http:
            try:
                with anyio.fail_after(DEADLINE + 5):
                    await self.talk(http, who)
            except TimeoutError:
                self.note(began, "session", "hangs")
                self.faults.append(f"the session {who} had no end")
                raise

    async def talk(self, http: httpx2.AsyncClient, who: str) -> None:
        began, at = time.monotonic(), "open"
        try:
            transport = streamable_http_client(self.endpoint.url, http_client=http)
            async with Client(transport, mode="legacy", read_timeout_seconds=DEADLINE) as client:
                for count in range(20):
                    if self.ending.is_set():
                        return
                    tool = at = self.tools[count % len(self.tools)]
                    text, began = f"{who}-{count}", time.monotonic()
                    result = await client.call_tool(tool, {"message": text})
                    got = "".join(getattr(part, "text", "") for part in result.content)
                    if text not in got:
                        self.faults.append(f"a session asked {text}, got {got[:60]!r}")
                    self.note(began, tool, "ok")
                    await asyncio.sleep(PAUSE)
        except TimeoutError:
            raise
        except BaseException as error:
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            if not isinstance(error, asyncio.CancelledError):
                self.note(began, at, f"session: {type(error).__name__}: {str(error)[:60]}")
            raise

    # What a drill judges by.

    def since(self, when: float, tool: str | None = None) -> list[Outcome]:
        return [o for o in list(self.outcomes) if o.began >= when and (tool is None or o.tool == tool)]

    def errors(self, tool: str | None = None, since: float = 0.0) -> list[Outcome]:
        return [o for o in self.since(since, tool) if not o.ok]

    def kinds(self) -> str:
        counted = Counter(o.kind for o in self.outcomes)
        return ", ".join(f"{kind} x{count}" for kind, count in counted.most_common())

    def recovered(self, since: float, tool: str, within: float) -> float | None:
        """Waits for a success of `tool` that began after `since`; how long that took, or `None`."""
        while time.monotonic() < since + within:
            if good := next((o for o in self.since(since, tool) if o.ok), None):
                return good.ended - since
            time.sleep(0.05)
        return None

    def gap(self) -> float:
        """The longest time without a success of anybody."""
        ends = sorted(o.ended for o in self.outcomes if o.ok)
        return max((b - a for a, b in zip(ends, ends[1:])), default=0.0)

    def p99(self, tool: str, since: float, until: float) -> float:
        took = sorted(o.ended - o.began for o in self.since(since, tool) if o.ok and o.ended <= until)
        return took[int(len(took) * 0.99)] if took else float("inf")
