"""Drills 4, 5, 13 and 20: processes of the mesh that are killed or told to end."""

from __future__ import annotations

import http.client
import json
import random
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import census
from judge import Judge, Verdict, now, settle
from load import Load
from servers import warm_up
from wire import Endpoint, call, message, once, open_call
from world import ECHOES, HTTP, STDIO, Stranger, Subjects, World, alive, ask, kill, wait_for


def killed_sidecar(binary: str, subjects: Subjects, root: Path, seconds: float, verdict: Verdict) -> None:
    with World(binary, subjects, root) as world:
        warm_up(world)
        judge = Judge(world, verdict, mortal=(STDIO,))
        with Stranger(world.endpoint, world.sidecar(STDIO)) as stranger, Load(world.endpoint, ECHOES) as load:
            settle(load, seconds / 3)
            orphans = census.tree(world.part(STDIO))
            kill(world.part(STDIO))
            killed = now()
            back = load.recovered(killed + 0.2, f"{STDIO}__echo", 20)
            verdict.expect(back is not None, "the service does not come back by itself")
            verdict.note(f"works again after {back} s")
            gone = wait_for(lambda: not [pid for pid in orphans if alive(pid)], 10)
            verdict.expect(gone, "children of the killed sidecar live on")
            settle(load, seconds / 2)
            lost = load.errors(f"{HTTP}__echo")
            verdict.expect(not lost, f"the other service lost {len(lost)} calls: {lost[:1]}")
        judge.judge(load, stranger)


def killed_ingress(binary: str, subjects: Subjects, root: Path, seconds: float, verdict: Verdict) -> None:
    with World(binary, subjects, root) as world:
        doomed = world.member("ingress", "doomed", world.ingress_settings())
        warm_up(world)
        judge = Judge(world, verdict)
        session = begin_session(world.at(doomed))
        with (
            Stranger(world.endpoint, world.sidecar(HTTP)) as stranger,
            Load(world.endpoint, ECHOES) as survivors,
            Load(world.at(doomed), ECHOES, workers=1) as victims,
        ):
            settle(survivors, seconds / 2)
            doomed.signal(signal.SIGKILL)
            killed = now()
            settle(survivors, seconds / 2)
        lost = survivors.errors()
        verdict.expect(not lost, f"clients of the other ingress lost {len(lost)} calls: {lost[:1]}")
        verdict.expect(not victims.errors(since=0) or victims.errors()[0].ended >= killed, "calls failed before the kill")
        verdict.expect(not victims.faults, f"a client of the killed ingress hangs: {victims.faults[:1]}")
        status, _, _ = legacy(world.endpoint, legacy_call(2), session)
        verdict.expect(status == 404, f"the survivor answers a session of the dead one with {status}, not 404")
        fresh = begin_session(world.endpoint)
        status, body, _ = legacy(world.endpoint, legacy_call(3), fresh)
        verdict.expect(status == 200 and "Echo: anew" in body, f"a new session at the survivor: {status} {body[:200]}")
        judge.judge(survivors, stranger)


def legacy(endpoint: Endpoint, body: dict, session: str | None = None) -> tuple[int, str, str | None]:
    """One POST as clients of 2025-11-25 make it: status, body, session id."""
    connection = http.client.HTTPConnection(*endpoint.address, timeout=20)
    headers = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
    headers["Authorization"] = f"Bearer {endpoint.token}"
    if session:
        headers |= {"Mcp-Session-Id": session, "MCP-Protocol-Version": "2025-11-25"}
    try:
        connection.request("POST", endpoint.path, json.dumps(body), headers)
        reply = connection.getresponse()
        return reply.status, reply.read().decode(), reply.getheader("Mcp-Session-Id")
    finally:
        connection.close()


def legacy_call(number: int) -> dict:
    params = {"name": f"{HTTP}__echo", "arguments": {"message": "anew"}}
    return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}


def begin_session(endpoint: Endpoint) -> str | None:
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "drill", "version": "1"}}
    _, _, session = legacy(endpoint, {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params})
    legacy(endpoint, {"jsonrpc": "2.0", "method": "notifications/initialized"}, session)
    return session


def sigterm(binary: str, subjects: Subjects, root: Path, seconds: float, verdict: Verdict) -> None:
    with World(binary, subjects, root) as world:
        warm_up(world)
        judge = Judge(world, verdict)
        with Stranger(world.endpoint, world.sidecar(HTTP)) as stranger, Load(world.endpoint, ECHOES) as load:
            for hurry in (False, True):
                drain_ingress(world, verdict, seconds, hurry)
                drain_sidecar(world, verdict, seconds, hurry)
            verdict.expect(not load.errors(), f"the rest of the mesh lost calls: {load.kinds()}")
        judge.judge(load, stranger)


def drain_ingress(world: World, verdict: Verdict, seconds: float, hurry: bool) -> None:
    who = world.member("ingress", f"ingress-{hurry}", world.ingress_settings(timeouts={"drain": "20s"}))
    check_drain(who, world.at(who), f"{HTTP}__", verdict, seconds, hurry)


def drain_sidecar(world: World, verdict: Verdict, seconds: float, hurry: bool) -> None:
    """A sidecar of its own, behind an ingress of its own."""
    settings = world.sidecar_settings(HTTP, world.url(HTTP), timeouts={"drain": "20s"})
    who = world.member("sidecar", f"sidecar-{hurry}", settings)
    host, port = who.mcp.rsplit(":", 1)
    front = world.member("ingress", f"front-{hurry}", world.ingress_settings({HTTP: (host, int(port))}))
    check_drain(who, world.at(front), f"{HTTP}__", verdict, seconds, hurry)
    front.signal(signal.SIGTERM)
    code = front.ended(10)
    verdict.expect(code == 0, f"the ingress in front of it ended with {code}")


def check_drain(who, endpoint: Endpoint, prefix: str, verdict: Verdict, seconds: float, hurry: bool) -> None:
    """Long calls, a stream and a listen are open when `who` gets SIGTERM."""
    length = seconds / 2
    listen = message("subscriptions/listen", {"notifications": {"toolsListChanged": True}})
    listening = open_call(endpoint, listen)
    listening.recv(65536)
    with ThreadPoolExecutor(6) as pool:
        calls = [call(f"{prefix}sleep", {"seconds": length, "message": f"m{n}"}) for n in range(4)]
        calls += [call(f"{prefix}steps", {"count": 4, "every": length / 4}, progress=True)]
        running = [pool.submit(attempt, endpoint, each) for each in calls]
        time.sleep(length / 4)
        who.signal(signal.SIGTERM)
        asked = now()
        # An admin port that is closed already says the same.
        busy = wait_for(lambda: not ready(who.admin), 1)
        verdict.expect(busy, f"{who.name} is still ready 1 s after SIGTERM")
        if hurry:
            who.signal(signal.SIGTERM)
        code = who.ended(25)
        took = now() - asked
        kinds = sorted({each.result() for each in running})
    verdict.note(f"{who.name}: ended after {took:.1f} s with {code}; calls: {', '.join(kinds)}")
    if hurry:
        verdict.expect(took < 3 + 1, f"{who.name} took {took:.1f} s after a second SIGTERM")
        verdict.expect(code in (0, 3), f"{who.name} ended with {code}")
    else:
        verdict.expect(code == 0, f"{who.name} ended with {code}")
        verdict.expect(kinds == ["ok"], f"{who.name} lost calls: {kinds}")
    ended = drained(listening)
    if who.name.startswith("ingress") and not hurry:
        verdict.expect('"result"' in ended, f"the listen ended without a result: {ended[-200:]!r}")


def drained(stream: socket.socket) -> str:
    raw = b""
    stream.settimeout(0.5)
    try:
        while piece := stream.recv(65536):
            raw += piece
    except OSError:
        pass
    stream.close()
    return raw.decode(errors="replace")


def attempt(endpoint: Endpoint, body: dict) -> str:
    try:
        return once(endpoint, body, 30).kind
    except Exception as error:  # noqa: BLE001 - how a call was cut
        return type(error).__name__


def ready(admin: str) -> bool:
    try:
        return ask(admin, "/readyz", 1)[0] == 200
    except OSError:
        return False


def storm(binary: str, subjects: Subjects, root: Path, seconds: float, verdict: Verdict) -> None:
    order = random.Random(20)
    with World(binary, subjects, root) as world:
        warm_up(world)
        judge = Judge(world, verdict, mortal=("ingress", STDIO, HTTP))
        with Stranger(world.endpoint, world.sidecar(HTTP)) as stranger, Load(world.endpoint, ECHOES) as load:
            end = now() + seconds * 2
            while now() < end:
                parts = ["ingress", STDIO, HTTP]
                order.shuffle(parts)
                for name in parts:
                    kill(world.part(name), order.choice([signal.SIGKILL, signal.SIGTERM]))
                    settle(load, 0.3)
                settle(load, 2)
            stopped = now()
            for tool in ECHOES:
                back = load.recovered(stopped, tool, 15)
                verdict.expect(back is not None, f"{tool} does not work 15 s after the last restart")
                verdict.note(f"{tool} works again after {back} s")
            settle(load, 2)
            late = load.errors(since=now() - 1)
            verdict.expect(not late, f"calls still fail after that: {late[:1]}")
        judge.judge(load, stranger)
