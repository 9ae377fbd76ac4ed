"""Clients of the scale benchmark: one that asks, and very many that only listen or wait. Stdlib only."""

from __future__ import annotations

import http.client
import json
import select
import socket
import time
from collections.abc import Callable, Iterator
from itertools import count

REVISION = "2026-07-28"
# For the last of very many to hear something.
PATIENCE_SECONDS = 180


class Lost(Exception):
    """Somebody did not get what was due; the text says how many did."""


def message(method: str, params: dict, name: str = "") -> tuple[bytes, dict[str, str]]:
    """A request of 2026-07-28 and its headers."""
    about = {
        "io.modelcontextprotocol/protocolVersion": REVISION,
        "io.modelcontextprotocol/clientInfo": {"name": "crowd", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": about}}
    headers = {
        "content-type": "application/json",
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": REVISION,
        "mcp-method": method,
        **({"mcp-name": name} if name else {}),
    }
    return json.dumps(body).encode(), headers


def post(method: str, params: dict, name: str = "") -> bytes:
    """The same as bytes of HTTP/1.1."""
    body, headers = message(method, params, name)
    head = "".join(f"{key}: {value}\r\n" for key, value in headers.items())
    return f"POST /mcp HTTP/1.1\r\nhost: localhost\r\n{head}content-length: {len(body)}\r\n\r\n".encode() + body


def get(port: int, path: str) -> tuple[int, bytes]:
    """One plain request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def pages(port: int) -> Iterator[bytes]:
    """Every page of the merged `tools/list`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
    cursor: dict = {}
    try:
        while True:
            body, headers = message("tools/list", cursor)
            connection.request("POST", "/mcp", body, headers)
            answer = connection.getresponse()
            page = answer.read()
            if answer.status != 200:
                raise Lost(f"tools/list: {answer.status} {page[:200]!r}")
            yield page
            # The member stands behind the items, and pages are large: no reason to read them whole.
            mark = page.rfind(b'"nextCursor":"')
            if mark < 0:
                return
            start = mark + len(b'"nextCursor":"')
            cursor = {"cursor": page[start : page.index(b'"', start)].decode()}
    finally:
        connection.close()


class Crowd:
    """Open connections, each of which has sent one request."""

    def __init__(self, port: int):
        self.port = port
        self.sockets: dict[int, socket.socket] = {}
        self.heard: dict[int, bytes] = {}
        self.poll = select.epoll()

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        self.poll.close()
        for one in self.sockets.values():
            one.close()

    def join(self, request: bytes) -> int:
        one = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_SECONDS)
        one.sendall(request)
        self.sockets[one.fileno()] = one
        self.heard[one.fileno()] = b""
        self.poll.register(one.fileno(), select.EPOLLIN)
        return one.fileno()

    def hear(self, words: bytes, who: set[int] | None = None) -> float:
        """Until everybody, or some, have heard these words; returns seconds. Then all is forgotten that they heard."""
        who = set(self.sockets) if who is None else who
        began, waiting = time.monotonic(), who - self.done(words, who)
        while waiting:
            if time.monotonic() - began > PATIENCE_SECONDS:
                raise Lost(f"{len(waiting)} of {len(who)} did not hear {words!r}")
            for number, _ in self.poll.poll(1.0):
                piece = self.sockets[number].recv(65536)
                if not piece:
                    said = self.heard[number][-300:]
                    raise Lost(f"a connection of {len(self.sockets)} was closed: {said!r}")
                self.heard[number] += piece
                waiting -= self.done(words, {number})
        took = time.monotonic() - began
        self.heard |= dict.fromkeys(who, b"")
        return took

    def done(self, words: bytes, numbers: set[int]) -> set[int]:
        return {number for number in numbers if words in self.heard[number]}


def wait_until(true: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> float:
    """Returns how long it took, in seconds."""
    began = time.monotonic()
    for _ in count():
        if true():
            return time.monotonic() - began
        if time.monotonic() - began > seconds:
            raise Lost("it did not happen in time")
        time.sleep(0.005)
    return 0.0
