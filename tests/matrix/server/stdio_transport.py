"""The reference server over stdio: one line, one message."""

from __future__ import annotations

import json
import os
import sys
import threading

from core import Call, Server, respond
from dispatch import dispatch, listen, new_session


def serve_stdio(revision: str, sins: str) -> None:
    server = Server(revision, sins)
    lock = threading.Lock()

    def send(message: dict) -> None:
        with lock:
            sys.stdout.write(json.dumps(message) + "\n")
            sys.stdout.flush()

    session = new_session(server, send)
    ends: dict[str, callable] = {}

    def run(call: Call) -> None:
        key = json.dumps(call.id)
        body, _ = respond(call, dispatch)
        if not call.stopped:
            send(body)
        session.running.pop(key, None)

    for line in sys.stdin:
        message = json.loads(line)
        if isinstance(message, list):
            server.sin("a batch")
        elif "method" not in message:
            session.answered(message)
            if server.modern:
                server.sin("a response over modern stdio")
        elif "id" not in message:
            if message["method"] == "notifications/cancelled":
                if end := ends.pop(json.dumps(message["params"]["requestId"]), None):
                    end()
            session.heard_notification(message)
        elif message["method"] == "subscriptions/listen" and server.modern:
            ends[json.dumps(message["id"])] = listen(server, message, send)
        else:
            call = Call(session, message["id"], message["method"], message.get("params") or {}, send)
            if session.running.setdefault(json.dumps(call.id), call) is not call:
                server.sin("an id that is in flight already")
            threading.Thread(target=run, args=(call,), daemon=True).start()
    os._exit(0)
