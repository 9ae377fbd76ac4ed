"""Drills 10 and 11: certificates that end, are replaced, and come from another authority."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
from pathlib import Path

from judge import Judge, Verdict, now, settle
from load import Load
from servers import warm_up
from world import ECHOES, HTTP, STDIO, Stranger, Subjects, World, metrics, total, wait_for

# Sidecars look at their files every 5 s, and renewal leaves a third of the life: that must be longer.
LIFE = 24
LOOK = 7
MEMBERS = ("ingress", STDIO, HTTP)


def expiry(binary: str, subjects: Subjects, root: Path, seconds: float, verdict: Verdict) -> None:
    """`up` is the one who issues: stopped, it renews nothing."""
    with World(binary, subjects, root, ["--certificate-life", f"{LIFE}s"]) as world:
        warm_up(world)
        judge = Judge(world, verdict)
        with Stranger(world.endpoint, world.sidecar(HTTP)) as stranger, Load(world.endpoint, ECHOES) as load:
            settle(load, max(LIFE * 1.4, seconds))
            verdict.expect(not load.errors(), f"renewal lost calls: {load.kinds()}")
            os.kill(world.up.pid, signal.SIGSTOP)
            stopped = now()
            try:
                refused = wait_for(lambda: load.errors(since=stopped), LIFE * 1.5, 0.5)
                verdict.expect(refused, "calls still work after all certificates have expired")
                if refused:
                    verdict.note(f"refused from {refused[0].began - stopped:.0f} s on: {refused[0].kind}")
                settle(load, 6)
                working = [o for o in load.since(now() - 3) if o.ok]
                verdict.expect(not working, f"{len(working)} calls still work with expired certificates")
                series = metrics(world.mesh.document["services"][HTTP]["admin"])
                expired = total(series, "outrigger_handshakes_total", 'outcome="expired"')
                verdict.note(f"{expired:.0f} handshakes of the sidecar ended as expired")
                log = (world.state / "logs" / "ingress.log").read_text(encoding="utf-8", errors="replace")
                verdict.expect("expired" in log.lower(), "the log of the ingress does not say that they expired")
            finally:
                os.kill(world.up.pid, signal.SIGCONT)
            for tool in ECHOES:
                back = load.recovered(now(), tool, 20)
                verdict.expect(back is not None, f"{tool} does not come back with new certificates")
                verdict.note(f"{tool} works again after {back} s")
        judge.judge(load, stranger)


def rotation(binary: str, subjects: Subjects, root: Path, seconds: float, verdict: Verdict) -> None:
    with World(binary, subjects, root) as world:
        warm_up(world)
        judge = Judge(world, verdict)
        ca, other, old = world.state / "ca", root / "other-ca", root / "old"
        with Stranger(world.endpoint, world.sidecar(HTTP)) as stranger, Load(world.endpoint, ECHOES) as load:
            end = now() + seconds
            while now() < end:
                issue(world, ca)
                settle(load, 2)
            shutil.copytree(world.state / "identity" / "ingress", old)
            tool(binary, "ca", "init", "--trust-domain", "drill.outrigger.local", "--dir", str(other))
            both = {name: (ca / name).read_bytes() + (other / name).read_bytes() for name in ("ca.pem", "crl.pem")}
            for name, content in both.items():
                replace(ca / name, content)
            settle(load, LOOK)
            verdict.expect(speaks(world, old), "the old authority is not believed before its removal")
            issue(world, other)
            settle(load, LOOK)
            for name in both:
                replace(ca / name, (other / name).read_bytes())
            settle(load, LOOK)
            verdict.expect(not speaks(world, old), "the old authority is believed after its removal")
            verdict.expect(speaks(world, world.state / "identity" / "ingress"), "the new certificate is refused")
            settle(load, 2)
            verdict.expect(not load.errors(), f"calls failed: {load.kinds()}; {load.errors()[:1]}")
        judge.judge(load, stranger)


def issue(world: World, authority: Path) -> None:
    for name in MEMBERS:
        out = world.state / "identity" / name
        tool(world.binary, "ca", "issue", name, "--dir", str(authority), "--out", str(out))


def tool(binary: str, *words: str) -> None:
    subprocess.run([binary, *words], check=True, capture_output=True, timeout=30)


def replace(path: Path, content: bytes) -> None:
    """At once: nobody reads half of it."""
    fresh = path.with_suffix(".new")
    fresh.write_bytes(content)
    fresh.replace(path)


def speaks(world: World, identity: Path) -> bool:
    """Whether a sidecar answers somebody with this certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(identity / "ingress.pem", identity / "ingress.key")
    try:
        with socket.create_connection(world.sidecar(HTTP), 5) as plain, context.wrap_socket(plain) as secure:
            secure.sendall(b"GET /mesh/v1/health HTTP/1.1\r\nHost: drill\r\nConnection: close\r\n\r\n")
            return secure.recv(100).split(b" ")[1:2] == [b"200"]
    except OSError:
        return False
