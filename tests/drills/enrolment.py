"""Drill 12: members that ask an authority over the network, with certificates that are renewed every ten seconds."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from judge import Judge, Verdict, settle
from load import Load
from servers import warm_up
from world import HTTP, Stranger, Subjects, World, metrics, total, wait_for

# Renewed at two thirds, up to a tenth earlier.
LIFE, RENEWED = 15, 10
DOMAIN = "drill.outrigger.local"
RENEWALS = "outrigger_certificate_renewals_total"


def renewals(binary: str, subjects: Subjects, root: Path, seconds: float, verdict: Verdict) -> None:
    with World(binary, subjects, root) as world:
        warm_up(world)
        ca = root / "enrol-ca"
        tool(binary, "init", "--trust-domain", DOMAIN, dir=ca)
        address, _child = authority(world, binary, ca, "127.0.0.1:0", "authority")
        sidecar = world.member(
            "sidecar", "enrolled-sidecar", world.sidecar_settings(HTTP, world.url(HTTP), identity=identity(binary, ca, address, HTTP))
        )
        at = tuple(sidecar.mcp.rsplit(":", 1))
        ingress = world.member(
            "ingress", "enrolled-ingress", world.ingress_settings({HTTP: at}, identity=identity(binary, ca, address, "ingress"))
        )
        endpoint, members = world.at(ingress), (sidecar, ingress)
        judge = Judge(world, verdict, members=members, front=ingress)
        with Stranger(endpoint, (at[0], int(at[1]))) as stranger, Load(endpoint, [f"{HTTP}__echo"]) as load:
            settle(load, max(seconds, 3 * RENEWED))
            verdict.expect(not load.errors(), f"renewal lost calls: {load.kinds()}")
            for member in members:
                done = total(metrics(member.admin), RENEWALS, 'outcome="renewed"')
                verdict.expect(done >= max(seconds, 3 * RENEWED) / LIFE, f"{member.name} has renewed {done:.0f} times only")
                verdict.note(f"{member.name} has renewed {done:.0f} times")
            # Dead over a renewal, and back before the end.
            _child.kill()
            _child.wait()
            failed = wait_for(lambda: total(metrics(sidecar.admin), RENEWALS, 'outcome="failed"'), LIFE, 0.2)
            verdict.expect(failed, "no renewal failed while the authority was dead")
            authority(world, binary, ca, address, "authority-again")
            settle(load, LIFE)
            verdict.expect(not load.errors(), f"a dead authority lost calls: {load.kinds()}")
            verdict.note(f"{len(load.outcomes)} calls, the longest gap {load.gap():.2f} s")
        judge.judge(load, stranger)


def authority(world: World, binary: str, ca: Path, listen: str, label: str) -> tuple[str, subprocess.Popen]:
    """Starts the authority; where it listens, and its process."""
    config, report = world.root / f"{label}.json", world.root / f"{label}-report.json"
    settings = {"dir": str(ca), "listen": listen, "admin": {"listen": "127.0.0.1:0"}, "life": f"{LIFE}s"}
    config.write_text(json.dumps(settings), encoding="utf-8")
    argv = [binary, "ca", "serve", "--config", str(config)]
    child = world.processes.start(label, argv, {"OUTRIGGER_REPORT": str(report)})
    world.processes.wait_until(label, child, report.exists)
    return json.loads(report.read_text(encoding="utf-8"))["ca"], child


def identity(binary: str, ca: Path, address: str, service: str) -> dict:
    token = tool(binary, "token", "create", "--service", service, dir=ca)
    return {"trust_domain": DOMAIN, "enroll": {"url": f"https://{address}", "token": token, "ca": str(ca / "ca.pem")}}


def tool(binary: str, *words: str, dir: Path) -> str:
    argv = [binary, "ca", *words, "--dir", str(dir)]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
