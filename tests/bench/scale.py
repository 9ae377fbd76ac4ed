#!/usr/bin/env python3
"""How the costs of one ingress grow with the services behind it, and what very many clients cost.

    scale.py --bin DIR [--services 10,100,1000,5000] [--streams 10000] [--calls 5000] [--seconds 3]

Sidecars are played by one program (`fleet`): real TLS with a certificate for each, real health documents. The ingress has core 0
and one thread; fleet and load have core 1. Prints tables in Markdown and writes DIR/scale.json. README.md says how to read them.
"""

from __future__ import annotations

import argparse
import json
import resource
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

from crowd import Crowd, Lost, get, pages, post, wait_until
from machine import LOAD_CPU, PROXY_CPU, Broken, Machine, Program
from peers import POLICY, TRUST_DOMAIN
from scale_report import report

HERE = Path(__file__).resolve().parent
TARGET = HERE.parents[1] / "target"
STEADY_RATE = 1000
# A thousand calls are no more than a few clock ticks.
STEADY_SECONDS = 6
CHANGES = 5
# Descriptors of an ingress with all these connections: clients may have three quarters of them.
DESCRIPTORS = 20000
# Between changes: lists are looked at once a second for each listener.
BREATH = 1.5
LISTEN = {"notifications": {"toolsListChanged": True}}


class Scene:
    """A fleet and an ingress before it."""

    def __init__(self, machine: Machine, args: argparse.Namespace, services: int):
        self.machine, self.args, self.services = machine, args, services
        self.fleet_port, self.control, self.port, self.admin = (free_port() for _ in range(4))
        self.certs = args.dir / "scale-certs"
        self.fleet = machine.start("scale-fleet", self.fleet_program(), LOAD_CPU)
        before = time.monotonic()
        self.ingress = machine.start("scale-ingress", self.ingress_program(), PROXY_CPU)
        self.started = before

    def end(self) -> None:
        for child in (self.ingress, self.fleet):
            self.machine.stop(child)

    def fleet_program(self) -> Program:
        options = {
            "--port": self.fleet_port,
            "--control": self.control,
            "--services": self.services,
            "--tools": self.args.tools_each,
            "--certs": self.certs,
            "--trust-domain": TRUST_DOMAIN,
        }
        words = [str(word) for option in options.items() for word in option]
        return Program([str(self.args.tools / "fleet"), *words], {}, self.control)

    def ingress_program(self) -> Program:
        address = lambda at: f"127.1.{at // 256}.{at % 256}:{self.fleet_port}"  # noqa: E731
        many = max(self.args.streams, self.args.calls) + 1000
        settings = {
            "services": {f"s{at}": {"addresses": [address(at)]} for at in range(self.services)},
            # It is done at ease after the start, whenever that is, and would stand in whatever is measured just then.
            "integrity": {"scan": False},
            "limits": {
                "connections": many,
                "in_flight": many,
                "listens": many,
                "listens_per_principal": many,
            },
        }
        file = self.args.dir / "scale-ingress.yaml"
        file.write_text(json.dumps(settings), encoding="utf-8")
        policy = self.args.dir / "scale-policy.yaml"
        policy.write_text(POLICY, encoding="utf-8")
        env = {
            "OUTRIGGER_LISTEN": f"127.0.0.1:{self.port}",
            "OUTRIGGER_ADMIN_LISTEN": f"127.0.0.1:{self.admin}",
            "OUTRIGGER_ANONYMOUS": "true",
            "OUTRIGGER_POLICY": str(policy),
            "OUTRIGGER_THREADS": "1",
            "OUTRIGGER_AUDIT": "off",
            "OUTRIGGER_TRUST_DOMAIN": TRUST_DOMAIN,
            "OUTRIGGER_CERT": str(self.certs / "ingress.pem"),
            "OUTRIGGER_KEY": str(self.certs / "ingress.key"),
            "OUTRIGGER_CA": str(self.certs / "ca.pem"),
        }
        return Program([str(self.args.bin / "outrigger-ingress"), "--config", str(file)], env, self.admin)

    def tell(self, command: str) -> dict:
        return json.loads(get(self.control, command)[1])

    def cpu_ms(self) -> float:
        """What the ingress has used, by the clock of the process: exact, and it remembers threads that ended."""
        # As clock_getcpuclockid(3) makes it.
        return time.clock_gettime_ns((~self.ingress.pid << 3) | 2) / 1e6

    def rss_kib(self) -> int:
        status = Path(f"/proc/{self.ingress.pid}/status").read_text(encoding="utf-8")
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))

    def used(self, seconds: float) -> float:
        """CPU time of the ingress in the next seconds, in milliseconds."""
        before = self.cpu_ms()
        time.sleep(seconds)
        return self.cpu_ms() - before

    def ready(self) -> dict:
        """From its start until it is ready, and until everything is listed and it rests."""
        wait_until(lambda: get(self.admin, "/readyz")[0] == 200)
        measured = {"ready_s": time.monotonic() - self.started, "ready_cpu_ms": self.cpu_ms()}
        wait_until(lambda: self.tell("/state")["asked"] == self.services)
        wait_until(lambda: self.used(0.5) < 25)
        listed = self.cpu_ms()
        return {**measured, "listed_cpu_ms": listed, "rss_mib": self.rss_kib() / 1024}

    def rest(self) -> dict:
        return {"idle_cpu_percent": self.used(self.args.seconds) / self.args.seconds / 10}

    def lists(self) -> dict:
        """Every page of the merged list: the first time, when it is joined, and again."""
        before = self.cpu_ms()
        whole = list(pages(self.port))
        joined = self.cpu_ms() - before
        named = sum(page.count(b'"inputSchema"') for page in whole)
        if named != self.services * self.args.tools_each:
            raise Lost(f"{named} tools are listed")
        again = []
        for _ in range(3):
            before = self.cpu_ms()
            size = sum(len(page) for page in pages(self.port))
            again.append(self.cpu_ms() - before)
        mib = size / 2**20
        rss = self.rss_kib() / 1024
        return {"list_mib": mib, "list_first_cpu_ms": joined, "list_cpu_ms_per_mib": statistics.median(again) / mib, "listed_rss_mib": rss}

    def changes(self) -> dict:
        """One service's catalog changes: with nobody listening, and until somebody who listens has the new list."""
        idle = self.rest()["idle_cpu_percent"] * 10
        unseen, seen, told, versions = [], [], [], 0
        for _ in range(CHANGES):
            self.tell("/change/0")
            versions += 1
            unseen.append(self.used(BREATH) - idle * BREATH)
        with Crowd(self.port) as crowd:
            crowd.join(post("subscriptions/listen", LISTEN))
            crowd.hear(b"acknowledged")
            next(pages(self.port))
            time.sleep(BREATH)
            for _ in range(CHANGES):
                before, began = self.cpu_ms(), time.monotonic()
                self.tell("/change/0")
                versions += 1
                crowd.hear(b"list_changed")
                told.append((time.monotonic() - began) * 1000)
                if f"Version {versions} of s0.".encode() not in next(pages(self.port)):
                    raise Lost("the change is told of, and not listed")
                time.sleep(BREATH)
                seen.append(self.cpu_ms() - before - idle * (time.monotonic() - began))
        return {
            "change_cpu_ms": statistics.median(unseen),
            "change_listed_cpu_ms": statistics.median(seen),
            "change_told_ms": statistics.median(told),
        }

    def call_costs(self) -> dict:
        """Calls of one service, and of all in turn."""
        measured = {}
        for name, who in {"one": ["--tool", "s0__tool_7"], "all": ["--services", self.services, "--tool", "tool_7"]}.items():
            place = ["--port", self.port, *who, "--pid", self.ingress.pid]
            windows = {"most": ["--seconds", self.args.seconds], "steady": ["--seconds", STEADY_SECONDS, "--rate", STEADY_RATE]}
            for rate, paced in windows.items():
                done = self.machine.load("calls", *place, *paced)
                if done["errors"]:
                    raise Lost(f"{done['errors']} calls failed, the last with {done['last_error']}")
                measured |= {f"{name}_{rate}_{key}": done[key] for key in ("cpu_us", "rps", "p50_us", "p99_us")}
        return measured


def growth(machine: Machine, args: argparse.Namespace, services: int) -> dict:
    scene = Scene(machine, args, services)
    try:
        return {**scene.ready(), **scene.rest(), **scene.lists(), **scene.changes(), **scene.call_costs()}
    finally:
        scene.end()


def streams(machine: Machine, args: argparse.Namespace) -> dict:
    """Clients that listen and hear nothing, and then all hear of one change."""
    scene = Scene(machine, args, 10)
    try:
        scene.ready()
        request = post("subscriptions/listen", LISTEN)
        with Crowd(scene.port) as crowd:
            crowd.join(request)
            crowd.hear(b"acknowledged")
            before, cpu = scene.rss_kib(), scene.cpu_ms()
            crowd.hear(b"acknowledged", {crowd.join(request) for _ in range(args.streams - 1)})
            opened = scene.cpu_ms() - cpu
            time.sleep(BREATH)
            held = scene.rss_kib()
            idle = scene.used(16)
            told, wall = [], []
            for _ in range(CHANGES):
                cpu, began = scene.cpu_ms(), time.monotonic()
                scene.tell("/change/0")
                crowd.hear(b"list_changed")
                wall.append((time.monotonic() - began) * 1000)
                told.append(scene.cpu_ms() - cpu)
                time.sleep(BREATH)
        time.sleep(BREATH)
        return {
            "streams": args.streams,
            "kib_each": (held - before) / args.streams,
            "open_cpu_us": opened * 1000 / args.streams,
            "idle_cpu_percent": idle / 16 / 10,
            "told_cpu_us": statistics.median(told) * 1000 / args.streams,
            "told_ms": statistics.median(wall),
            "rss_mib": held / 1024,
            "rss_after_mib": scene.rss_kib() / 1024,
        }
    finally:
        scene.end()


def crowd_of_calls(machine: Machine, args: argparse.Namespace) -> dict:
    """Calls that are all under way at once."""
    scene = Scene(machine, args, 10)
    try:
        scene.ready()
        with Crowd(scene.port) as crowd:
            before = scene.rss_kib()
            for at in range(args.calls):
                name = f"s{at % 10}__tool_0"
                crowd.join(post("tools/call", {"name": name, "arguments": {"query": "x" * 40}}, name))
            wait_until(lambda: scene.tell("/state")["waiting"] == args.calls)
            held, cpu = scene.rss_kib(), scene.cpu_ms()
            idle = scene.used(args.seconds)
            scene.tell("/release")
            took = crowd.hear(b'"result"')
            cpu = scene.cpu_ms() - cpu - idle
        time.sleep(BREATH)
        return {
            "calls": args.calls,
            "kib_each": (held - before) / args.calls,
            "answer_cpu_us": cpu * 1000 / args.calls,
            "idle_cpu_percent": idle / args.seconds / 10,
            "answered_s": took,
            "rss_mib": held / 1024,
            "rss_after_mib": scene.rss_kib() / 1024,
        }
    finally:
        scene.end()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("0.0.0.0", 0))
        return probe.getsockname()[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--services", default="10,100,1000,5000", help="how many, one after the other")
    parser.add_argument("--tools-each", type=int, default=50)
    parser.add_argument("--streams", type=int, default=10000, help="clients that listen; 0: none")
    parser.add_argument("--calls", type=int, default=5000, help="calls under way at once; 0: none")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a timed window")
    parser.add_argument("--tools", type=Path, default=TARGET / "bench-tools" / "release")
    parser.add_argument("--bin", type=Path, required=True, help="folder with our programs, as release.sh prints it")
    parser.add_argument("--dir", type=Path, default=TARGET / "bench", help="configuration, logs, scale.json")
    args = parser.parse_args()
    args.dir.mkdir(parents=True, exist_ok=True)
    args.dir, args.tools, args.bin = args.dir.resolve(), args.tools.resolve(), args.bin.resolve()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < DESCRIPTORS:
        parser.error(f"needs {DESCRIPTORS} descriptors, and `ulimit -Hn` allows {most}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, most))

    rows: list[dict] = []
    broken = 0
    with Machine(args.tools, args.dir) as machine:
        sizes = [int(size) for size in filter(None, args.services.split(","))]
        plan = [("scale", {"services": size}, lambda size=size: growth(machine, args, size)) for size in sizes]
        plan += [("scale-streams", {}, lambda: streams(machine, args))] * bool(args.streams)
        plan += [("scale-calls", {}, lambda: crowd_of_calls(machine, args))] * bool(args.calls)
        for suite, about, measure in plan:
            print(f"  {suite:<14}{' '.join(map(str, about.values()))}", file=sys.stderr, flush=True)
            try:
                rows.append({"suite": suite, "peer": "outrigger", **about, **measure()})
            except (Broken, Lost, OSError, subprocess.SubprocessError) as problem:
                broken += 1
                print(f"BROKEN {suite} {about}: {problem}", flush=True)
    (args.dir / "scale.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(report(rows))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
