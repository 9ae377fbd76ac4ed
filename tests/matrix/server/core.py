"""What the reference server knows of MCP, for every revision and apart from any transport. Standard library only.

It speaks exactly one revision and is strict about it: whatever a peer does that the revision does not allow is written
to a file (`sins`), which the runner of the matrix reads at the end.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Callable

MODERN = "2026-07-28"
LEGACY = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
P = "io.modelcontextprotocol/"
LEVELS = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"]
# How long anything here waits for a peer before it gives up; passing it is a failed check, never a race that is hidden.
PATIENCE = 20.0


class Refuse(Exception):
    """A JSON-RPC error; `status` is its HTTP status in the modern revision."""

    def __init__(self, code: int, message: str, data: Any = None, status: int = 200):
        super().__init__(message)
        self.error = {"code": code, "message": message, **({"data": data} if data is not None else {})}
        self.status = status


class NeedInput(Exception):
    """Modern only: the call cannot go on without answers of the client."""

    def __init__(self, requests: dict[str, dict], state: str):
        super().__init__("input required")
        self.result = {"resultType": "input_required", "inputRequests": requests, "requestState": state}


@dataclass
class Server:
    """What all sessions share: the revision, the sins, cancelled calls, and who watches what."""

    revision: str
    sins_file: str
    cancelled: set[str] = field(default_factory=set)
    listens: dict[int, tuple[Any, dict, Callable]] = field(default_factory=dict)
    sessions: list[Session] = field(default_factory=list)
    # Tools that came by calls; in older revisions each session has its own.
    grown: list[str] = field(default_factory=list)
    tasks: dict[str, dict] = field(default_factory=dict)
    changed: threading.Condition = field(default_factory=threading.Condition)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def modern(self) -> bool:
        return self.revision >= MODERN

    def outside(self, key: str, answer: dict) -> None:
        """Tells the runner what happened outside calls: a call to ask for it would be in the way."""
        with open(f"{self.sins_file}.outside", "a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, "answer": answer}) + "\n")

    def sin(self, text: str) -> None:
        with self.lock, open(self.sins_file, "a", encoding="utf-8") as file:
            file.write(f"{self.revision}: {text}\n")

    def wait(self, ready: Callable[[], bool], patience: float = PATIENCE) -> bool:
        """Waits until `ready`; looks at every change, and often enough to see what no change tells."""
        end = time.monotonic() + patience
        with self.changed:
            while not ready():
                if time.monotonic() > end:
                    return False
                self.changed.wait(0.02)
        return True

    def note_cancelled(self, key: str) -> None:
        with self.changed:
            self.cancelled.add(key)
            self.changed.notify_all()

    def resource_updated(self, uri: str) -> None:
        """Tells whoever watches `uri`, in the revision's own way."""
        for session in list(self.sessions):
            if uri in session.subscribed:
                session.notify("notifications/resources/updated", {"uri": uri})
        for own_id, wanted, send in list(self.listens.values()):
            if uri in wanted.get("resourceSubscriptions", []):
                params = {"uri": uri, "_meta": {P + "subscriptionId": own_id}}
                send({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": params})

    def tools_changed(self) -> None:
        """Modern: tells whoever listens. An older revision tells its own session."""
        for own_id, wanted, send in list(self.listens.values()):
            if wanted.get("toolsListChanged"):
                params = {"_meta": {P + "subscriptionId": own_id}}
                send({"jsonrpc": "2.0", "method": "notifications/tools/list_changed", "params": params})


@dataclass
class Session:
    """A legacy session, or (modern) the nothing that stands for one."""

    server: Server
    send: Callable[[dict], None]
    caps: dict = field(default_factory=dict)
    ready: bool = False
    level: str = "debug"
    subscribed: set[str] = field(default_factory=set)
    pending: dict[str, list] = field(default_factory=dict)
    running: dict[str, Call] = field(default_factory=dict)
    count: int = 0
    grown: list[str] = field(default_factory=list)
    next_id: int = 0

    def notify(self, method: str, params: dict | None = None) -> None:
        self.send({"jsonrpc": "2.0", "method": method, **({"params": params} if params is not None else {})})

    def ask(self, send: Callable[[dict], None], method: str, params: dict, patience: float = PATIENCE) -> dict:
        """A request to the client over `send`; returns its response."""
        with self.server.lock:
            self.next_id += 1
            own = f"ask-{self.next_id}"
        slot: list = []
        self.pending[own] = slot
        send({"jsonrpc": "2.0", "id": own, "method": method, "params": params})
        if not self.server.wait(lambda: bool(slot), patience):
            return {"error": {"code": 0, "message": "nobody answered"}}
        return slot[0]

    def answered(self, message: dict) -> None:
        slot = self.pending.pop(message.get("id"), None)
        if slot is None:
            self.server.sin(f"a response to no request of ours: id {message.get('id')!r}")
            return
        with self.server.changed:
            slot.append(message)
            self.server.changed.notify_all()

    def heard_notification(self, message: dict) -> None:
        method, params = message["method"], message.get("params") or {}
        if method == "notifications/initialized":
            self.ready = True
        elif method == "notifications/cancelled":
            if call := self.running.get(json.dumps(params.get("requestId"))):
                call.cancel()
        elif method == "notifications/roots/list_changed":
            pass
        else:
            self.server.sin(f"notification {method}")


@dataclass
class Call:
    """One request under way. `send` reaches the stream that its answer will be on."""

    session: Session
    id: Any
    method: str
    params: dict
    send: Callable[[dict], None]
    # Whether the peer has gone away, where a closed stream is what says so.
    gone: Callable[[], bool] = lambda: False
    stopped: bool = False

    @property
    def server(self) -> Server:
        return self.session.server

    @property
    def meta(self) -> dict:
        return self.params.get("_meta") or {}

    @property
    def arguments(self) -> dict:
        return self.params.get("arguments") or {}

    @property
    def caps(self) -> dict:
        return self.meta.get(P + "clientCapabilities", {}) if self.server.modern else self.session.caps

    @property
    def grown(self) -> list[str]:
        """The tools that came by calls, where this one is made."""
        return self.server.grown if self.server.modern else self.session.grown

    def cancel(self) -> None:
        with self.server.changed:
            self.stopped = True
            self.server.changed.notify_all()

    def cancelled(self) -> bool:
        return self.stopped or (self.server.modern and self.gone())

    def notify(self, method: str, params: dict) -> None:
        self.send({"jsonrpc": "2.0", "method": method, "params": params})

    def progress(self, n: int, total: int) -> None:
        if (token := self.meta.get("progressToken")) is not None:
            params = {"progressToken": token, "progress": n, "total": total}
            if self.server.revision >= "2025-03-26":
                params["message"] = f"step {n} of {total}"
            self.notify("notifications/progress", params)

    def log(self, level: str) -> None:
        wanted = self.meta.get(P + "logLevel") if self.server.modern else self.session.level
        if wanted is not None and LEVELS.index(level) >= LEVELS.index(wanted):
            self.notify("notifications/message", {"level": level, "logger": "reference", "data": level})

    def ask(self, key: str, method: str, params: dict) -> dict:
        """Asks the client: by a request, or (modern) by an answer that demands the call again. Earlier answers come
        back in `requestState`."""
        if not self.server.modern:
            answer = self.session.ask(self.send, method, params)
            if "error" in answer:
                raise Refuse(-32603, f"the client refused: {answer['error']}")
            return answer["result"]
        earlier = json.loads(self.params.get("requestState") or "{}")
        given = {**earlier, **(self.params.get("inputResponses") or {})}
        if key not in given:
            raise NeedInput({key: {"method": method, "params": params}}, json.dumps(given))
        return given[key]


def respond(call: Call, run: Callable[[Call], dict]) -> tuple[dict, int]:
    """Runs a request; returns the response and its HTTP status."""
    envelope = {"jsonrpc": "2.0", "id": call.id}
    try:
        result = run(call)
        status = 200
    except NeedInput as need:
        result, status = need.result, 200
    except Refuse as refuse:
        return {**envelope, "error": refuse.error}, refuse.status if call.server.modern else 200
    if call.server.modern:
        result = {"resultType": "complete", **result}
        result["_meta"] = {P + "serverInfo": {"name": "reference", "version": "1"}}
    return {**envelope, "result": result}, status
