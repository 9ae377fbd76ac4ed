"""The reference server over Streamable HTTP, legacy and modern, and over HTTP+SSE. One process for every revision."""

from __future__ import annotations

import json
import queue
import select
import socket
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from core import LEGACY, MODERN, P, Call, Server, Session, respond
from dispatch import dispatch, listen, new_session


# The member of `params` that `Mcp-Name` repeats.
MIRRORED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri",
            "tasks/get": "taskId", "tasks/update": "taskId", "tasks/cancel": "taskId"}


class Endpoint:
    """One revision: its server, and the sessions that clients opened."""

    def __init__(self, revision: str, sins: str):
        self.server = Server(revision, sins)
        self.sessions: dict[str, tuple[Session, queue.Queue]] = {}

    def open(self) -> tuple[str, Session, queue.Queue]:
        """A session; what it says outside calls waits in a queue for the client's stream."""
        outside: queue.Queue = queue.Queue()
        own = uuid.uuid4().hex
        session = new_session(self.server, outside.put)
        self.sessions[own] = (session, outside)
        return own, session, outside

    def close(self, own: str) -> None:
        session, outside = self.sessions.pop(own)
        self.server.sessions.remove(session)
        outside.put(None)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    endpoints: dict[str, Endpoint] = {}

    def log_message(self, *_: object) -> None:
        pass

    # --- answers
    def plain(self, status: int, body: dict | None = None, **headers: str) -> None:
        data = json.dumps(body).encode() if body is not None else b""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if data:
            self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def begin_stream(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def event(self, data: str, kind: str = "message") -> None:
        piece = f"event: {kind}\ndata: {data}\n\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))

    def end_stream(self) -> None:
        self.wfile.write(b"0\r\n\r\n")

    def gone(self) -> bool:
        """Whether the peer closed the connection."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        try:
            return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return True

    def refuse(self, status: int, code: int, message: str, own: object = None) -> None:
        self.plain(status, {"jsonrpc": "2.0", "id": own, "error": {"code": code, "message": message}})

    # --- requests
    def where(self) -> tuple[Endpoint, str] | None:
        parts = self.path.split("?")[0].strip("/").split("/")
        if len(parts) != 2 or parts[0] not in self.endpoints:
            self.plain(404)
            return None
        return self.endpoints[parts[0]], parts[1]

    def body(self) -> dict:
        return json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"null")

    def do_POST(self) -> None:
        message = self.body()
        if not (place := self.where()):
            return
        endpoint, kind = place
        if isinstance(message, list):
            endpoint.server.sin("a batch")
            return self.refuse(400, -32600, "no batches")
        if kind == "messages":
            return self.post_old(endpoint, message)
        if kind != "mcp" or endpoint.server.revision == LEGACY[0]:
            return self.plain(405)
        return self.post_modern(endpoint, message) if endpoint.server.modern else self.post_legacy(endpoint, message)

    def do_GET(self) -> None:
        if not (place := self.where()):
            return
        endpoint, kind = place
        if kind == "sse" and not endpoint.server.modern:
            own, _, outside = endpoint.open()
            self.begin_stream()
            self.event(f"/{endpoint.server.revision}/messages?session={own}", "endpoint")
            return self.stream_outside(endpoint, outside, own)
        known = endpoint.sessions.get(self.headers.get("Mcp-Session-Id", ""))
        if kind != "mcp" or endpoint.server.modern or endpoint.server.revision == LEGACY[0]:
            return self.plain(405, Allow="POST")
        if not known:
            return self.plain(404)
        self.begin_stream()
        return self.stream_outside(endpoint, known[1], None)

    def do_DELETE(self) -> None:
        if not (place := self.where()):
            return
        own = self.headers.get("Mcp-Session-Id", "")
        if own not in place[0].sessions:
            return self.plain(404)
        place[0].close(own)
        self.plain(200)

    def stream_outside(self, endpoint: Endpoint, outside: queue.Queue, session: str | None) -> None:
        """Writes what comes until the session or the connection ends; with `session` its end is the session's."""
        try:
            while not self.gone():
                try:
                    message = outside.get(timeout=0.05)
                except queue.Empty:
                    continue
                if message is None:
                    break
                self.event(json.dumps(message))
            else:
                self.close_connection = True
                return
            self.end_stream()
        except OSError:
            self.close_connection = True
        finally:
            if session in endpoint.sessions:
                endpoint.close(session)

    # --- HTTP+SSE: answers travel on the session's stream
    def post_old(self, endpoint: Endpoint, message: dict) -> None:
        known = endpoint.sessions.get(self.path.partition("session=")[2])
        if not known:
            return self.plain(404)
        self.plain(202)
        session, outside = known
        if "method" not in message:
            session.answered(message)
        elif "id" not in message:
            session.heard_notification(message)
        else:
            call = Call(session, message["id"], message["method"], message.get("params") or {}, outside.put)
            threading.Thread(target=self.run_old, args=(call, outside), daemon=True).start()

    def run_old(self, call: Call, outside: queue.Queue) -> None:
        call.session.running[json.dumps(call.id)] = call
        body, _ = respond(call, dispatch)
        if not call.stopped:
            outside.put(body)
        call.session.running.pop(json.dumps(call.id), None)

    # --- Streamable HTTP
    def post_legacy(self, endpoint: Endpoint, message: dict) -> None:
        server, version = endpoint.server, self.headers.get("MCP-Protocol-Version")
        if message.get("method") == "initialize":
            own, session, _ = endpoint.open()
            return self.answer(server, session, message, own)
        if not (known := endpoint.sessions.get(self.headers.get("Mcp-Session-Id", ""))):
            ended = "Mcp-Session-Id" in self.headers
            # A probe for the era comes without a session, and a subscription may be given up while its session ends.
            if message.get("method") != ("resources/unsubscribe" if ended else "server/discover"):
                server.sin(f"{message.get('method')} without a session")
            return self.refuse(404 if ended else 400, -32000, "no session", message.get("id"))
        session = known[0]
        if server.revision >= "2025-06-18" and version != server.revision:
            server.sin(f"{message.get('method')} with MCP-Protocol-Version {version}")
        if "method" not in message:
            session.answered(message)
            return self.plain(202)
        if "id" not in message:
            session.heard_notification(message)
            return self.plain(202)
        return self.answer(server, session, message, None)

    def post_modern(self, endpoint: Endpoint, message: dict) -> None:
        server, params = endpoint.server, message.get("params") or {}
        if "id" not in message or "method" not in message:
            server.sin(f"a POST of {message.get('method') or 'a response'}")
            return self.plain(202)
        version = (params.get("_meta") or {}).get(P + "protocolVersion")
        name = MIRRORED.get(message["method"])
        expected = {"MCP-Protocol-Version": version, "Mcp-Method": message["method"],
                    "Mcp-Name": params.get(name) if name else None}
        for header, value in expected.items():
            if message["method"] != "initialize" and self.headers.get(header) != value:
                server.sin(f"{message['method']} with {header} {self.headers.get(header)!r}, not {value!r}")
                return self.refuse(400, -32020, f"{header} mismatch", message["id"])
        session = Session(server, lambda _: None, ready=True)
        if message["method"] == "subscriptions/listen":
            return self.listen(server, message)
        return self.answer(server, session, message, None)

    def listen(self, server: Server, message: dict) -> None:
        outside: queue.Queue = queue.Queue()
        self.begin_stream()
        end = listen(server, message, outside.put)
        try:
            while not self.gone():
                try:
                    self.event(json.dumps(outside.get(timeout=0.05)))
                except queue.Empty:
                    continue
        except OSError:
            pass
        finally:
            end()
            self.close_connection = True

    def answer(self, server: Server, session: Session, message: dict, own: str | None) -> None:
        """Runs a request on this connection: JSON, or a stream once something comes before the answer."""
        state = {"stream": False}
        lock = threading.Lock()

        def send(note: dict) -> None:
            with lock:
                if not state["stream"]:
                    state["stream"] = True
                    self.begin_stream()
                self.event(json.dumps(note))

        call = Call(session, message["id"], message["method"], message.get("params") or {}, send, self.gone)
        key = json.dumps(call.id)
        if session.running.setdefault(key, call) is not call:
            server.sin("an id that is in flight already")
        try:
            body, status = respond(call, dispatch)
            if not state["stream"]:
                headers = {"Mcp_Session_Id": own} if own else {}
                return self.plain(status, body, **headers)
            if not call.stopped:
                self.event(json.dumps(body))
            self.end_stream()
        except OSError:
            self.close_connection = True
        finally:
            session.running.pop(key, None)


class Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def serve_http(port: int, sins: str) -> None:
    Handler.endpoints = {revision: Endpoint(revision, sins) for revision in (*LEGACY, MODERN)}
    Handler.wbufsize = 0
    Listener(("127.0.0.1", port), Handler).serve_forever()
