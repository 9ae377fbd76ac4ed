#!/usr/bin/env python3
"""An MCP server of 2026-07-28 over HTTP whose tools misbehave on request. Stdlib only.

    server.py PORT      http://127.0.0.1:PORT/mcp

Tools: `echo`; `sleep` answers after `seconds`; `drip` sends its answer one byte per second; `big` answers with
`megabytes` of text; `steps` sends `count` progress events, one every `every` seconds, then a result.
"""

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

INFO = {"io.modelcontextprotocol/serverInfo": {"name": "drill-server", "version": "1"}}
NUMBERS = ("seconds", "megabytes", "count", "every")
TOOLS = [
    {
        "name": name,
        "description": name,
        "inputSchema": {
            "type": "object",
            "properties": {"message": {"type": "string"}, **{n: {"type": "number"} for n in NUMBERS}},
        },
    }
    for name in ("echo", "sleep", "drip", "big", "steps")
]


def complete(result: dict) -> dict:
    return {"resultType": "complete", **result, "_meta": INFO}


def said(text: str) -> dict:
    return complete({"content": [{"type": "text", "text": text}]})


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.send_response(405)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        message = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        method, params = message.get("method"), message.get("params") or {}
        cached = {"ttlMs": 60000, "cacheScope": "public"}
        if method == "server/discover":
            what = {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}
            self.answer(message, complete({**what, **cached}))
        elif method == "tools/list":
            self.answer(message, complete({"tools": TOOLS, **cached}))
        elif method == "tools/call":
            self.call(message, params.get("name"), params.get("arguments") or {}, params.get("_meta") or {})
        else:
            self.send_json({"jsonrpc": "2.0", "id": message.get("id"), "error": {"code": -32601, "message": "no"}}, 404)

    def call(self, message: dict, name: str, given: dict, meta: dict) -> None:
        if name == "sleep":
            time.sleep(given["seconds"])
        elif name == "big":
            return self.big(message, int(given["megabytes"] * 1024 * 1024))
        elif name == "steps":
            return self.steps(message, given, meta.get("progressToken"))
        self.answer(message, said("Echo: " + given.get("message", "")), slowly=name == "drip")

    def big(self, message: dict, size: int) -> None:
        """Never holds the whole answer: a hundred of them at once must fit."""
        whole = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": said("@")}).encode()
        head, _, tail = whole.partition(b"@")
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(head) + size + len(tail)))
        self.end_headers()
        self.wfile.write(head)
        piece = b"x" * 65536
        for at in range(0, size, len(piece)):
            self.wfile.write(piece[: size - at])
        self.wfile.write(tail)

    def steps(self, message: dict, given: dict, token: object) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for step in range(int(given["count"])):
            params = {"progressToken": token, "progress": step, "message": given.get("message", "")}
            self.event({"jsonrpc": "2.0", "method": "notifications/progress", "params": params})
            time.sleep(given["every"])
        self.event({"jsonrpc": "2.0", "id": message["id"], "result": said("done")})
        self.close_connection = True

    def event(self, message: dict) -> None:
        self.wfile.write(b"data: " + json.dumps(message).encode() + b"\n\n")
        self.wfile.flush()

    def answer(self, message: dict, result: dict, slowly: bool = False) -> None:
        self.send_json({"jsonrpc": "2.0", "id": message["id"], "result": result}, 200, slowly)

    def send_json(self, value: dict, status: int, slowly: bool = False) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if not slowly:
            self.wfile.write(body)
            return
        for byte in body:
            self.wfile.write(bytes([byte]))
            time.sleep(1)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *_: object) -> None:
        """Callers that go away are part of the drill."""


if __name__ == "__main__":
    Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
