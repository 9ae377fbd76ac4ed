"""Everything that clients do to a mesh, all the time: calls of all sizes, wrong ones, cancelled ones, streams that are dropped,
sessions that are abandoned, tunnels."""

from __future__ import annotations

import http.client
import json
import random
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from functools import partial

from bed import SESSIONS, Bed
from load import Load
from processes import begin_session
from threads import Threads
from wire import Connection, Endpoint, call, message, open_call, told
from world import ECHOES, HTTP, STDIO

# Pauses of each kind of client, in seconds: enough of each, and a machine that still does other things.
PAUSE = 0.05
DEADLINE = 20
# What a stream tells before its result.
STEPS = 10


class Traffic(Threads):
    """Runs between `with` and its end. What a client does is counted; what breaks off while something is killed is no fault."""

    def __init__(self, bed: Bed):
        clients = (self.sizes, self.errors, self.cancels, self.streams, self.listens, self.abandons, self.tunnels)
        super().__init__(*(partial(self.client, each, n) for n, each in enumerate(clients)), patience=DEADLINE + 10)
        self.bed, self.endpoint = bed, bed.at(bed.front)
        self.done, self.broken = Counter(), Counter()
        self.faults: list[str] = []
        self.echo = Load(self.endpoint, [*ECHOES, f"{SESSIONS}__echo"], workers=1)

    def __enter__(self) -> Traffic:
        self.echo.__enter__()
        return super().__enter__()

    def __exit__(self, *how: object) -> None:
        self.ending.set()
        self.echo.__exit__()
        super().__exit__(*how)
        self.faults += [*self.echo.faults, *(f"{thread.name} still waits" for thread in self.threads if thread.is_alive())]

    def client(self, act: Callable[[random.Random], None], seed: int) -> None:
        order = random.Random(seed)
        while not self.ending.wait(PAUSE):
            name = act.__name__
            try:
                act(order)
                self.done[name] += 1
            except TimeoutError:
                self.faults.append(f"{name}: nothing came within {DEADLINE} s")
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.broken[f"{name}: {type(error).__name__}"] += 1
                self.ending.wait(0.2)

    def sizes(self, order: random.Random) -> None:
        """Answers from a few bytes to megabytes, and questions of up to half a one."""
        connection = Connection(self.endpoint, DEADLINE)
        size = order.choice([0.001, 0.01, 0.1, 1, 4])
        connection.send(call(f"{HTTP}__big", {"megabytes": size}))
        connection.send(call(order.choice(ECHOES), {"message": "x" * order.choice([10, 10_000, 500_000])}))
        connection.close()

    def errors(self, order: random.Random) -> None:
        connection = Connection(self.endpoint, DEADLINE)
        wrong = [
            call(f"{HTTP}__nothing", {}),
            call("nobody__echo", {"message": "x"}),
            call(f"{STDIO}__echo", {"wrong": 1}),
            message("no/such", {}),
            message("resources/read", {"uri": "none://here"}),
            message("tools/list", {"cursor": "made-up"}),
        ]
        connection.send(order.choice(wrong))
        connection.close()
        plain = http.client.HTTPConnection(*self.endpoint.address, timeout=DEADLINE)
        head = {"Authorization": order.choice(["Bearer no", f"Bearer {self.endpoint.token}"])}
        plain.request("POST", self.endpoint.path, order.choice(["{", "[]", '{"jsonrpc":"2.0"}', "\x00" * 999]), head)
        plain.getresponse().read()
        plain.close()

    def cancels(self, order: random.Random) -> None:
        """Calls that their client gives up, to each kind of server."""
        slow = [
            call(f"{HTTP}__sleep", {"seconds": 3, "message": "x"}),
            call(f"{STDIO}__trigger-long-running-operation", {"duration": 5, "steps": 5}, progress=True),
            call(f"{SESSIONS}__trigger-long-running-operation", {"duration": 5, "steps": 5}, progress=True),
        ]
        call_of = open_call(self.endpoint, order.choice(slow))
        self.ending.wait(order.random() / 2)
        call_of.close()

    def streams(self, order: random.Random) -> None:
        """Streams, some of which are dropped half-way, and some by a reader that is slow."""
        body = call(f"{HTTP}__steps", {"count": STEPS, "every": 0.05}, progress=True)
        heard, end, wanted = [], {}, order.choice([1, 3, 100])
        with closing(open_call(self.endpoint, body, order.choice([None, 4096]))) as stream:
            for one in told(stream, DEADLINE):
                if one.get("method") == "notifications/progress":
                    heard.append(one["params"]["progress"])
                elif one.get("id") == body["id"]:
                    end = one
                if len(heard) >= wanted:
                    break
        whole = "result" in end
        if heard != list(range(STEPS if whole else len(heard))):
            self.faults.append(f"streams: of {STEPS} events came {heard}")
        if len(heard) < wanted and not end:
            self.faults.append(f"streams: ended after {len(heard)} events without an answer")
        # The service was away: a whole answer, at once or in the place of the result.
        self.done["streams refused"] += "error" in end

    def listens(self, order: random.Random) -> None:
        what = {"notifications": {"toolsListChanged": True, "resourceSubscriptions": ["demo://resource/static/document/x"]}}
        listens = [open_call(self.endpoint, message("subscriptions/listen", what)) for _ in range(order.choice([1, 5]))]
        for listen in listens:
            first = next(told(listen, DEADLINE), {})
            if first.get("method") != "notifications/subscriptions/acknowledged":
                self.faults.append(f"listens: began with {first}")
        self.ending.wait(order.random())
        for listen in listens:
            listen.close()

    def abandons(self, order: random.Random) -> None:
        """Sessions of an older revision that are never ended, half of them with a GET stream that breaks off."""
        path = order.choice(["/mcp", f"/s/{SESSIONS}/mcp", f"/s/{STDIO}/mcp"])
        where = self.endpoint.at(path)
        session = begin_session(where)
        if not session or order.random() < 0.5:
            return
        stream = socket.create_connection(where.address, DEADLINE)
        head = [
            f"GET {path} HTTP/1.1",
            "Host: {}:{}".format(*where.address),
            "Accept: text/event-stream",
            f"Authorization: Bearer {where.token}",
            f"Mcp-Session-Id: {session}",
            "MCP-Protocol-Version: 2025-11-25",
        ]
        stream.sendall("\r\n".join(head).encode() + b"\r\n\r\n")
        stream.recv(4096)
        self.ending.wait(order.random() / 2)
        stream.close()

    def tunnels(self, order: random.Random) -> None:
        """Tunnels that are used, that rest and are cut, and refusals."""
        host = order.choice([f"localhost:{self.bed.beyond}", "elsewhere.test:443"])
        tunnel = socket.create_connection(egress_of(self.bed), DEADLINE)
        tunnel.sendall(f"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        said = tunnel.recv(4096)
        if said.startswith(b"HTTP/1.1 200") and order.random() < 0.7:
            tunnel.sendall(b"GET / HTTP/1.0\r\n\r\n")
            while tunnel.recv(65536):
                pass
        tunnel.close()
        kind = "passed" if said.startswith(b"HTTP/1.1 200") else "refused"
        self.done[f"tunnels {kind}"] += 1

    def summary(self) -> str:
        done = ", ".join(f"{name} x{count}" for name, count in sorted(self.done.items()))
        broken = ", ".join(f"{name} x{count}" for name, count in sorted(self.broken.items()))
        return f"echo {self.echo.kinds()}; {done}; broken off: {broken or 'nothing'}"


def egress_of(bed: Bed) -> tuple[str, int]:
    told = json.loads((bed.root / "out-report.json").read_text(encoding="utf-8"))
    host, port = told["egress"].rsplit(":", 1)
    return host, int(port)
