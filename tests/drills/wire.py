"""Requests of 2026-07-28 on plain sockets, so that a drill decides when to read, stall or hang up. Stdlib only."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

REVISION = "2026-07-28"
IDS = itertools.count(1)


@dataclass(frozen=True)
class Endpoint:
    """Where to send, and with which token."""

    url: str
    token: str | None = None

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return parts.hostname or "127.0.0.1", parts.port or 80

    @property
    def path(self) -> str:
        return urlsplit(self.url).path

    def at(self, path: str) -> Endpoint:
        """Another path of the same listener."""
        host, port = self.address
        return Endpoint(f"http://{host}:{port}{path}", self.token)

    def headers(self, method: str, name: str | None = None) -> dict[str, str]:
        out = {
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": REVISION,
            "Mcp-Method": method,
        }
        if name:
            out["Mcp-Name"] = name
        if self.token:
            out["Authorization"] = f"Bearer {self.token}"
        return out


def message(method: str, params: dict, progress: bool = False) -> dict:
    """A whole modern request with an id of its own."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": REVISION,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "drill", "version": "1"},
    }
    if progress:
        meta["progressToken"] = f"p{next(IDS)}"
    # Processes that load the same mesh must not share ids: an answer that goes astray would not be noticed.
    return {"jsonrpc": "2.0", "id": f"{os.getpid()}-{next(IDS)}", "method": method, "params": {**params, "_meta": meta}}


def call(tool: str, arguments: dict, progress: bool = False) -> dict:
    return message("tools/call", {"name": tool, "arguments": arguments}, progress)


def name_of(body: dict) -> str | None:
    return body["params"].get("name") or body["params"].get("uri")


def events(raw: bytes) -> list[dict]:
    """The messages of an event stream, or the one of a JSON body."""
    if raw.lstrip().startswith(b"{"):
        return [json.loads(raw)]
    blocks = raw.replace(b"\r\n", b"\n").split(b"\n\n")
    lines = (line[5:] for block in blocks for line in block.split(b"\n") if line.startswith(b"data:"))
    return [json.loads(line) for line in lines if line.strip()]


def told(stream: socket.socket, within: float) -> Iterator[dict]:
    """The messages of an answer as they come: those of an event stream, or the one of a JSON body. A `TimeoutError` when it has not
    ended in time, whatever came until then."""
    end = time.monotonic() + within
    answer = http.client.HTTPResponse(stream, method="POST")
    answer.begin()
    streams = answer.getheader("Content-Type", "").startswith("text/event-stream")
    raw = b""
    while piece := answer.read1(4096):
        raw += piece
        if streams:
            whole, _, raw = raw.rpartition(b"\n\n")
            yield from events(whole)
        if time.monotonic() > end:
            raise TimeoutError
    if raw.strip():
        yield from events(raw)


@dataclass(frozen=True)
class Reply:
    """What came back; `final` is the message with the request's id."""

    status: int
    messages: list[dict]
    final: dict | None

    @property
    def code(self) -> int | None:
        return (self.final or {}).get("error", {}).get("code")

    @property
    def text(self) -> str:
        content = (self.final or {}).get("result", {}).get("content", [])
        return "".join(part.get("text", "") for part in content)

    @property
    def kind(self) -> str:
        if self.final is None:
            return f"HTTP {self.status} without an answer"
        if self.code is not None:
            return f"HTTP {self.status}, {self.code}"
        return "ok" if self.status == 200 else f"HTTP {self.status}"


class Connection:
    """One kept connection. Every wait is bounded by `deadline` seconds; a `TimeoutError` means that a request hung."""

    def __init__(self, endpoint: Endpoint, deadline: float):
        self.endpoint = endpoint
        self.deadline = deadline
        self.http: http.client.HTTPConnection | None = None

    def send(self, body: dict) -> Reply:
        host, port = self.endpoint.address
        self.http = self.http or http.client.HTTPConnection(host, port, timeout=self.deadline)
        try:
            headers = self.endpoint.headers(body["method"], name_of(body))
            self.http.request("POST", self.endpoint.path, json.dumps(body), headers)
            response = self.http.getresponse()
            raw = response.read()
        except BaseException:
            self.close()
            raise
        messages = events(raw) if raw.strip() else []
        final = next((m for m in messages if m.get("id") == body["id"] and "method" not in m), None)
        if final is None and messages and messages[-1].get("id") is not None:
            raise Astray(f"asked with id {body['id']}, got {messages[-1].get('id')}")
        return Reply(response.status, messages, final)

    def close(self) -> None:
        if self.http:
            self.http.close()
            self.http = None


class Astray(Exception):
    """An answer to somebody else's request."""


def once(endpoint: Endpoint, body: dict, deadline: float = 30) -> Reply:
    """One request on a connection of its own."""
    connection = Connection(endpoint, deadline)
    try:
        return connection.send(body)
    finally:
        connection.close()


def open_call(endpoint: Endpoint, body: dict, receive_buffer: int | None = None) -> socket.socket:
    """Sends a request and reads nothing."""
    plain = socket.socket()
    if receive_buffer:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    plain.settimeout(20)
    plain.connect(endpoint.address)
    raw = json.dumps(body).encode()
    head = [f"POST {endpoint.path} HTTP/1.1", "Host: {}:{}".format(*endpoint.address), f"Content-Length: {len(raw)}"]
    head += [f"{name}: {value}" for name, value in endpoint.headers(body["method"], name_of(body)).items()]
    plain.sendall("\r\n".join(head).encode() + b"\r\n\r\n" + raw)
    return plain
