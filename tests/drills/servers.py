"""Drills 1, 2 and 6: what servers do to a mesh."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from judge import Judge, Verdict, now, settle
from load import Load
from wire import Reply, call, events, once, open_call
from world import ECHOES, HTTP, STDIO, Stranger, Subjects, World, kill, metrics, total, wait_for


def killed_in_mid_stream(binary: str, subjects: Subjects, root: Path, seconds: float, verdict: Verdict) -> None:
    with World(binary, subjects, root) as world:
        warm_up(world)
        judge = Judge(world, verdict)
        with Stranger(world.endpoint, world.sidecar(HTTP)) as stranger, Load(world.endpoint, ECHOES) as load:
            settle(load, seconds / 4)
            body = call(f"{HTTP}__steps", {"count": 20, "every": 0.2}, progress=True)
            stream = open_call(world.endpoint, body)
            raw = b""
            while raw.count(b"notifications/progress") < 5:
                raw += stream.recv(65536)
            kill(world.servers[HTTP].pid)
            world.servers[HTTP].wait()
            killed = now()
            while piece := stream.recv(65536):
                raw += piece
                if raw.endswith(b"0\r\n\r\n"):
                    break
            took = now() - killed
            # Chunk sizes stand between the events; they are no `data:` lines.
            last = events(raw.partition(b"\r\n\r\n")[2])[-1]
            verdict.expect(took < 2, f"the stream ended {took:.1f} s after its server")
            verdict.expect("error" in last, f"the stream ended with {str(last)[:200]}")
            verdict.note(f"the stream ended after {took:.2f} s with {last.get('error')}")
            settle(load, seconds / 2)
            lost = load.errors(f"{STDIO}__echo", killed)
            verdict.expect(not lost, f"another server lost {len(lost)} calls: {lost[:1]}")
            world.serve(HTTP)
            back = load.recovered(now(), f"{HTTP}__echo", 15)
            verdict.expect(back is not None, "calls do not work after the server is back")
            verdict.note(f"works again after {back} s")
            settle(load, seconds / 4)
        judge.judge(load, stranger)


def killed_child(binary: str, subjects: Subjects, root: Path, seconds: float, verdict: Verdict) -> None:
    with World(binary, subjects, root) as world:
        warm_up(world)
        judge = Judge(world, verdict)
        tool = f"{STDIO}__trigger-long-running-operation"
        with Stranger(world.endpoint, world.sidecar(STDIO)) as stranger, Load(world.endpoint, ECHOES) as load:
            settle(load, 1)
            with ThreadPoolExecutor(4) as pool:
                body = [call(tool, {"duration": 60, "steps": 60}) for _ in range(4)]
                running = [pool.submit(once, world.endpoint, each, 20) for each in body]
                settle(load, 1)
                end_children(world)
                replies: list[Reply] = [each.result() for each in running]
            for reply in replies:
                verdict.expect(reply.code is not None, f"a call in flight ended with {reply.kind}")
            verdict.note(f"calls in flight: {', '.join(reply.kind for reply in replies)}")
            for _ in range(9):
                settle(load, 0.4)
                end_children(world)
            ended = now()
            # Back-off doubles from 200 ms with each death, up to 30 s.
            back = load.recovered(ended, f"{STDIO}__echo", 40)
            verdict.expect(back is not None, "calls do not work after ten deaths")
            verdict.note(f"works again after {back} s")
            healthy = load.errors(f"{HTTP}__echo")
            verdict.expect(not healthy, f"the other server lost {len(healthy)} calls: {healthy[:1]}")
            settle(load, 1)
            restarts = total(metrics(world.admin(STDIO)), "outrigger_child_restarts_total")
            verdict.expect(restarts >= 1, "no restart was counted")
        judge.judge(load, stranger)


def end_children(world: World) -> None:
    for pid in world.stdio_children():
        kill(pid)


def slow(binary: str, subjects: Subjects, root: Path, seconds: float, verdict: Verdict) -> None:
    """The ingress of this drill waits for 3 s, so that 30 s and one byte per second are beyond it."""
    with World(binary, subjects, root) as world:
        world.serve("slow")
        settings = world.sidecar_settings(HTTP, world.url("slow"), timeouts={"request": "4s"})
        lazy = world.member("sidecar", "slow-sidecar", settings)
        host, port = lazy.mcp.rsplit(":", 1)
        # Its certificate says the service's name, so the ingress must know it under another.
        settings = world.ingress_settings(timeouts={"request": "3s"})
        settings["services"]["slow"] = {
            "addresses": [f"{host}:{port}"],
            "spiffe_id": f"spiffe://drill.outrigger.local/{HTTP}",
        }
        ingress = world.member("ingress", "second", settings)
        endpoint = world.at(ingress)
        warm_up(world)
        judge = Judge(world, verdict, members=(lazy, ingress), front=ingress)
        with Stranger(endpoint, world.sidecar(HTTP)) as stranger, Load(endpoint, ECHOES) as load:
            settle(load, seconds / 2)
            middle = now()
            ending = threading.Event()

            def keep_asking(tool: str, arguments: dict) -> list[Reply]:
                replies = []
                while not ending.is_set():
                    replies.append(once(endpoint, call(f"slow__{tool}", arguments), 15))
                return replies

            asked = [("sleep", {"seconds": 1}), ("sleep", {"seconds": 30}), ("sleep", {"seconds": 120}), ("drip", {})]
            with ThreadPoolExecutor(8) as pool:
                running = {str(each): pool.submit(keep_asking, *each) for each in asked * 2}
                settle(load, seconds / 2)
                ending.set()
                kinds = {name: sorted({r.kind for r in each.result()}) for name, each in running.items()}
            verdict.note(f"{kinds}")
            for name, found in kinds.items():
                patient = "'seconds': 1}" in name
                wanted = found == ["ok"] if patient else "ok" not in found or "drip" in name
                verdict.expect(wanted, f"{name} gave {found}")
            late = now()
            before, during = load.p99(ECHOES[1], 0, middle), load.p99(ECHOES[1], middle, late)
            verdict.note(f"p99 of the healthy server: {before * 1000:.0f} ms, then {during * 1000:.0f} ms")
            # A tenth of a second is noise of a machine with two cores that builds and tests at once.
            verdict.expect(during < max(2 * before, 0.1), f"p99 rose from {before:.3f} to {during:.3f} s")
            verdict.expect(not load.errors(), f"healthy servers lost calls: {load.kinds()}")
        judge.judge(load, stranger)


def warm_up(world: World) -> None:
    """Both services answer once and connections exist, so that stock is taken of a mesh that has worked."""
    for tool in ECHOES:
        wait_for(lambda: once(world.endpoint, call(tool, {"message": "warm"})).kind == "ok", 20)
    with Load(world.endpoint, ECHOES) as load:
        settle(load, 1.5)
