#!/usr/bin/env python3
"""What the mesh costs: direct, through a sidecar, through ingress and sidecar, and through installed peers, in one run.

    bench.py [--runs 3] [--seconds 2] [--peers outrigger-sidecar,nginx] [--suites calls,chain,pairs,...]

Peers are interleaved within each pass, because a virtual core changes its speed from minute to minute. Results are
appended to DIR/results.jsonl and printed as tables; compare inside one run only. README.md says how to read them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

from machine import LOAD_CPU, PROXY_CPU, Broken, Machine, Program
from peers import SERVICE, Peers, Ports
from report import report

HERE = Path(__file__).resolve().parent
TARGET = HERE.parents[1] / "target"
CHAIN = "ingress + sidecar"
# What most sidecars do most of the time, against what they can do at most.
STEADY_RATE = 1000
HANDSHAKE_CONNECTIONS = 16
IDLE_CONNECTIONS = 1000
BULK_MIB = 1024
# Each client over HTTP+SSE has a session of its own, of which one principal may have so many.
PAIR_CONNECTIONS = 16
# Long, and compared within itself: in the first pass only.
ONCE = {"pairs"}


class Bench:
    """One run: the machine, the programs, and where results go."""

    def __init__(self, machine: Machine, peers: Peers, results: Path, seconds: float, only: set[str]):
        self.machine = machine
        self.peers = peers
        self.results = results
        self.window = ["--seconds", seconds]
        self.sidecars = {name: p for name, p in peers.sidecars().items() if not only or name in only}
        self.forward_proxies = {n: p for n, p in peers.forward_proxies().items() if not only or n in only}
        self.with_chain = not only or CHAIN in only
        self.tls = ["--port", peers.ports.tls, "--certs", peers.certs]
        self.broken = 0

    def calls(self) -> None:
        upstream = self.machine.start("upstream", self.peers.upstream(), LOAD_CPU)
        self.two_rates("direct", ["--port", self.peers.ports.upstream], [upstream.pid])
        self.machine.stop(upstream)
        self.each_sidecar("calls", lambda name, pid: self.two_rates(name, self.tls, [pid]))

    def chain(self) -> None:
        if not self.with_chain:
            return
        with self.trouble_of("chain", CHAIN), self.upstream():
            sidecar = self.machine.start("chain-sidecar", self.peers.sidecar(), PROXY_CPU)
            ingress = self.machine.start("chain-ingress", self.peers.ingress(), PROXY_CPU)
            pids = [sidecar.pid, ingress.pid]
            service = ["--port", self.peers.ports.ingress, "--path", f"/s/{SERVICE}/mcp"]
            merged = ["--port", self.peers.ports.ingress, "--tool", f"{SERVICE}__tool_7"]
            self.wait_until_answered(service)
            self.two_rates(CHAIN, service, pids)
            self.two_rates(f"{CHAIN}, merged", merged, pids)
            idle = self.machine.load("idle", *service, "--connections", 1, *self.window, "--pid", ingress.pid)
            self.record("memory", "outrigger-ingress", idle)

    def pairs(self) -> None:
        """Every pairing of eras and transports. The server is on the load's core, also as a child of its sidecar."""
        if not self.with_chain:
            return
        connections = ["--connections", PAIR_CONNECTIONS]
        for pairing in self.peers.pairings():
            with self.trouble_of("pairs", pairing.name), self.upstream(pairing.upstream):
                sidecar = self.machine.start("pair-sidecar", pairing.sidecar, PROXY_CPU)
                ingress = self.machine.start("pair-ingress", self.peers.ingress(), PROXY_CPU)
                self.wait_until_answered(pairing.place)
                place = [*pairing.place, *connections]
                self.two_rates(pairing.name, place, [sidecar.pid, ingress.pid], ("pairs", "pairs-steady"))

    def handshakes(self) -> None:
        connections = ["--connections", HANDSHAKE_CONNECTIONS]

        def measure(name: str, pid: int) -> None:
            done = self.machine.load("handshakes", *self.tls, *connections, *self.window, "--pid", pid)
            self.record("handshakes", name, done)

        self.each_sidecar("handshakes", measure)

    def idle(self) -> None:
        connections = ["--connections", IDLE_CONNECTIONS]

        def measure(name: str, pid: int) -> None:
            self.record("memory", name, self.machine.load("idle", *self.tls, *connections, *self.window, "--pid", pid))

        self.each_sidecar("idle", measure)

    def egress(self) -> None:
        """Tunnels through forward proxies with an allowlist of a thousand names."""
        ports = self.peers.ports
        answers = self.peers.opaque(ports.tunnelled, 200)
        endless = self.peers.opaque(ports.bulk, BULK_MIB << 20)
        for name, program in self.forward_proxies.items():
            with self.trouble_of("egress", name), self.upstream(answers, endless):
                child = self.machine.start(f"egress-{name}", program, PROXY_CPU)
                proxy = ["--port", ports.egress, "--pid", child.pid]
                small, large = ["--host-port", ports.tunnelled], ["--host-port", ports.bulk]
                self.record("tunnels", name, self.machine.load("tunnels", *proxy, *small, *self.window))
                denied = ["--host", "other.test", "--expect", 403]
                self.record("denials", name, self.machine.load("tunnels", *proxy, *small, *denied, *self.window))
                self.record("bulk", name, self.machine.load("bulk", *proxy, *large, "--mib", BULK_MIB))
                self.record("idle-tunnels", name, self.machine.load("idle-tunnels", *proxy, *small))

    def start(self) -> None:
        for name, program in self.sidecars.items():
            with self.trouble_of("start", name), self.upstream():
                settings = [f"{key}={value}" for key, value in program.env.items()]
                command = ["env", *settings, "taskset", "-c", PROXY_CPU, *program.argv]
                self.record("start", name, self.machine.load("start", *self.tls, "--", *command))

    def two_rates(self, name: str, place: list, pids: list[int], suites: tuple[str, str] = ("most", "steady")) -> None:
        measured = [option for pid in pids for option in ("--pid", pid)]
        self.record(suites[0], name, self.machine.load("calls", *place, *self.window, *measured))
        steady = self.machine.load("calls", *place, *self.window, *measured, "--rate", STEADY_RATE)
        self.record(suites[1], name, steady)

    def each_sidecar(self, suite: str, measure: Callable[[str, int], None]) -> None:
        for name, program in self.sidecars.items():
            with self.trouble_of(suite, name), self.upstream():
                child = self.machine.start(f"{suite}-{name}", program, PROXY_CPU)
                self.wait_until_answered(self.tls)
                measure(name, child.pid)

    def wait_until_answered(self, place: list) -> None:
        """An open port is not a ready proxy: ours learns its server's catalog first."""
        deadline = time.monotonic() + 20
        while True:
            try:
                self.machine.load("idle", *place, "--connections", 1, "--seconds", 0.01)
                return
            except Broken:
                if time.monotonic() > deadline:
                    raise

    @contextmanager
    def upstream(self, *programs: Program | None):
        """A fresh upstream, unless `None` says that there is none; whatever was started meanwhile ends with it."""
        before = list(self.machine.children)
        for program in filter(None, programs or [self.peers.upstream()]):
            self.machine.start("upstream", program, LOAD_CPU)
        try:
            yield
        finally:
            for child in [c for c in reversed(self.machine.children) if c not in before]:
                self.machine.stop(child)

    @contextmanager
    def trouble_of(self, suite: str, name: str):
        """One broken peer does not end the run, but the run fails."""
        try:
            yield
        except Broken as problem:
            self.broken += 1
            print(f"BROKEN {suite} {name}: {problem}", flush=True)

    def record(self, suite: str, peer: str, measured: dict) -> None:
        if measured.get("errors"):
            self.broken += 1
            print(f"BROKEN {suite} {peer}: {measured['errors']} errors, last {measured['last_error']}", flush=True)
        with open(self.results, "a", encoding="utf-8") as file:
            file.write(json.dumps({"suite": suite, "peer": peer, **measured}) + "\n")
        print(f"  {suite:<14}{peer}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    suites = ["calls", "chain", "pairs", "handshakes", "idle", "start", "egress"]
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a timed window")
    parser.add_argument("--peers", default="", help="only these, by name; default: all that are installed")
    parser.add_argument("--suites", default=",".join(suites))
    parser.add_argument("--tools", type=Path, default=TARGET / "bench-tools" / "release")
    parser.add_argument("--bin", type=Path, default=TARGET / "release", help="folder with our release binaries")
    parser.add_argument("--dir", type=Path, default=TARGET / "bench", help="certificates, configuration, logs, results")
    args = parser.parse_args()
    if unknown := set(args.suites.split(",")) - set(suites):
        parser.error(f"no such suite: {', '.join(sorted(unknown))}")

    run = args.dir.resolve()
    run.mkdir(parents=True, exist_ok=True)
    subprocess.run([HERE / "mkcerts.sh", run / "certs"], check=True)
    peers = Peers(run, args.tools.resolve(), args.bin.resolve(), Ports())
    results = run / "results.jsonl"
    results.unlink(missing_ok=True)
    only = set(filter(None, args.peers.split(",")))
    with Machine(args.tools.resolve(), run) as machine:
        bench = Bench(machine, peers, results, args.seconds, only)
        for number in range(args.runs):
            print(f"pass {number + 1} of {args.runs}", flush=True)
            for suite in args.suites.split(","):
                if number == 0 or suite not in ONCE:
                    getattr(bench, suite)()
    print(report(results, peers.ours / "outrigger-sidecar"))
    return 1 if bench.broken else 0


if __name__ == "__main__":
    sys.exit(main())
