"""Drills 7, 8 and 14: clients and networks that hold places instead of using them."""

from __future__ import annotations

import resource
import socket
import time
from pathlib import Path

import census
from judge import MEGABYTE, Judge, Verdict, now, settle
from load import Load
from processes import attempt
from relay import Relay
from servers import warm_up
from wire import call, open_call
from world import ECHOES, HTTP, STDIO, Stranger, Subjects, World, ask, wait_for

READERS = 50
# What a hundred readers may cost a process.
COST = 64 * MEGABYTE


def slow_readers(binary: str, subjects: Subjects, root: Path, seconds: float, verdict: Verdict) -> None:
    """Half of them read a large result, half a stream of events, all one byte per second."""
    with World(binary, subjects, root) as world:
        warm_up(world)
        idle = Judge(world, verdict)
        # The allocator keeps some of what it had to get once: stock is taken after one crowd, so that growth is told from that.
        crowd(world, idle, verdict, 4)
        time.sleep(2)
        judge = Judge(world, verdict)
        with Stranger(world.endpoint, world.sidecar(HTTP)) as stranger, Load(world.endpoint, ECHOES) as load:
            settle(load, 1)
            crowd(world, idle, verdict, seconds)
            settle(load, 1)
            verdict.expect(not load.errors(), f"others lost calls: {load.kinds()}")
        judge.judge(load, stranger)


def crowd(world: World, idle: Judge, verdict: Verdict, seconds: float) -> None:
    """A hundred slow readers for so long, and what they cost compared with the idle mesh."""
    big = [call(f"{HTTP}__big", {"megabytes": 50}) for _ in range(READERS)]
    text = "y" * 100_000
    steps = {"count": 500, "every": 0.01, "message": text}
    streams = [call(f"{HTTP}__steps", steps, progress=True) for _ in range(READERS)]
    readers = [open_call(world.endpoint, body, receive_buffer=4096) for body in big + streams]
    peak: dict[str, int] = {}
    end = now() + seconds
    while now() < end:
        for reader in readers:
            reader.recv(1)
        for name, held in idle.holdings().items():
            peak[name] = max(peak.get(name, 0), held.rss)
        time.sleep(1)
    for name, most in peak.items():
        rise = most - idle.before[name].rss
        verdict.note(f"{name}: +{rise / MEGABYTE:.1f} MiB for {len(readers)} slow readers")
        verdict.expect(rise < COST, f"{name} grew by {rise / MEGABYTE:.0f} MiB")
    for reader in readers:
        reader.close()


def half_open(binary: str, subjects: Subjects, root: Path, seconds: float, verdict: Verdict) -> None:
    """The cable between an ingress and a sidecar is pulled, and clients vanish without a word."""
    with World(binary, subjects, root) as world, Relay(world.sidecar(HTTP)) as cable:
        places = {HTTP: cable.address, STDIO: world.sidecar(STDIO)}
        settings = world.ingress_settings(places, timeouts={"request": "5s", "idle": "5s", "header": "5s"})
        ingress = world.member("ingress", "second", settings)
        endpoint = world.at(ingress)
        warm_up(world)
        judge = Judge(world, verdict, members=(ingress,), front=ingress)
        with Stranger(endpoint, world.sidecar(HTTP)) as stranger, Load(endpoint, ECHOES) as load:
            settle(load, seconds / 4)
            vanished = [socket.create_connection(endpoint.address) for _ in range(50)]
            cable.stall()
            stalled = now()
            # Pings every 20 s with 10 s for the answer find the dead connection; then calls fail at once.
            noticed = wait_for(lambda: noticed_after(load, stalled), 45, 0.5)
            verdict.expect(noticed, "a dead connection is not noticed within 45 s")
            verdict.note(f"noticed after {noticed or 0:.0f} s; {load.kinds()}")
            lost = load.errors(f"{STDIO}__echo")
            verdict.expect(not lost, f"the other service lost {len(lost)} calls: {lost[:1]}")
            cable.resume()
            back = load.recovered(now(), f"{HTTP}__echo", 15)
            verdict.expect(back is not None, "calls do not work after the cable is back")
            verdict.note(f"works again after {back} s")
            settle(load, seconds / 4)
        # Our ends are still open: only the ingress can let go of its own.
        judge.judge(load, stranger)
        for plain in vanished:
            plain.close()


def noticed_after(load: Load, since: float) -> float | None:
    quick = (o for o in load.errors(f"{HTTP}__echo", since + 2) if "-31503" in o.kind)
    return next((o.began - since for o in quick), None)


def exhaustion(binary: str, subjects: Subjects, root: Path, seconds: float, verdict: Verdict) -> None:
    """A thousand connections at an ingress and at a sidecar that may have 256 descriptors."""
    raise_own_limit()
    with World(binary, subjects, root) as world:
        warm_up(world)
        few = ["bash", "-c", 'ulimit -n 256; exec "$@"', "-"]
        members = (
            world.member("ingress", "few-ingress", world.ingress_settings(), few),
            world.member("sidecar", "few-sidecar", world.sidecar_settings(HTTP, world.url(HTTP)), few),
        )
        judge = Judge(world, verdict, members=members)
        with Stranger(world.endpoint, world.sidecar(HTTP)) as stranger, Load(world.endpoint, ECHOES) as load:
            for member in members:
                host, port = member.mcp.rsplit(":", 1)
                crowd = [socket.create_connection((host, int(port)), 10) for _ in range(1000)]
                for plain in crowd[::2]:
                    half_a_hello(plain)
                settle(load, 1)
                before = census.holding(member.pid)
                settle(load, seconds / 3)
                after = census.holding(member.pid)
                if not verdict.expect(before and after, f"{member.name} died"):
                    continue
                spent = (after.cpu - before.cpu) / (seconds / 3)
                verdict.note(f"{member.name}: {after.descriptors} descriptors, {spent * 100:.0f} % of a core")
                verdict.expect(spent < 0.2, f"{member.name} spins: {spent * 100:.0f} % of a core")
                verdict.expect(answers(member.admin), f"/healthz of {member.name} does not answer")
                for plain in crowd:
                    plain.close()
            endpoint = world.at(members[0])
            works = lambda: attempt(endpoint, call(ECHOES[0], {"message": "again"})) == "ok"  # noqa: E731
            verdict.expect(wait_for(works, 10, 0.2), "the ingress does not recover when the crowd is gone")
            verdict.expect(wait_for(lambda: world.ready(members[1].admin), 10), "the sidecar does not recover")
            verdict.expect(not load.errors(), f"others lost calls: {load.kinds()}")
        judge.judge(load, stranger)


def half_a_hello(plain: socket.socket) -> None:
    try:
        plain.sendall(b"\x16\x03\x01\x02\x00\x01")
    except OSError:
        pass


def answers(admin: str) -> bool:
    try:
        return ask(admin, "/healthz", 3)[0] == 200
    except OSError:
        return False


def raise_own_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 4096:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
