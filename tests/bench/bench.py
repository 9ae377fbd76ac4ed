#!/usr/bin/env python3
"""What the mesh costs: direct, through a sidecar, through ingress and sidecar, and through installed peers, in one run.

    bench.py --bin DIR [--runs 3] [--seconds 2] [--peers outrigger-sidecar,nginx] [--suites calls,chain,pairs,...] [--write]

Peers are interleaved within each pass, because a virtual core changes its speed from minute to minute. Results go to
DIR/results.json and are printed as tables; compare inside one run only. README.md says how to read them.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

from about import about
from installed import missing
from machine import LOAD_CPU, PROXY_CPU, Broken, Machine, Program
from peers import ROUTED, SERVICE, TOOLS, Peers, Ports, Router
from report import report, write
from results import Results

HERE = Path(__file__).resolve().parent
TARGET = HERE.parents[1] / "target"
CHAIN = "ingress + sidecar"
# What most sidecars do most of the time, against what they can do at most.
STEADY_RATE = 1000
# A hundredth of the calls of one short window says what the machine did just then, not what a proxy does.
STEADY_WINDOWS = 3
# Of what a peer can do at most: busy, with room for what a slow moment leaves behind.
BUSY_SHARE = 0.7
HANDSHAKE_CONNECTIONS = 16
IDLE_CONNECTIONS = 1000
IDLE_CONNECTIONS_AT_LAST = 5000
STREAMS = 100
# Of each stream; as long as one of a tool that tells of its progress, and often.
PACED_MICROS = 10_000
BULK_MIB = 1024
# Each client over HTTP+SSE has a session of its own, of which one principal may have so many.
PAIR_CONNECTIONS = 16
# Long, and compared within itself: in the first pass only.
ONCE = {"pairs"}


class Bench:
    """One run: the machine, the programs, and where results go."""

    def __init__(self, machine: Machine, peers: Peers, results: Results, seconds: float, only: set[str]):
        self.machine = machine
        self.peers = peers
        self.results = results
        self.number = 0
        self.window = ["--seconds", seconds]
        self.long_window = ["--seconds", seconds * STEADY_WINDOWS]
        self.sidecars = {name: p for name, p in peers.sidecars().items() if not only or name in only}
        self.forward_proxies = {n: p for n, p in peers.forward_proxies().items() if not only or n in only}
        self.routers = {name: r for name, r in peers.routers().items() if not only or name in only}
        self.with_chain = not only or CHAIN in only
        self.tls = ["--port", peers.ports.tls, "--certs", peers.certs]
        # What did not work, in words: in the results as well, because a table does not show what it lacks.
        self.broken: list[str] = []

    def calls(self) -> None:
        with self.trouble_of("calls", "direct"), self.upstream() as [upstream]:
            self.three_rates("direct", ["--port", self.peers.ports.upstream], [upstream.pid])
        self.each_sidecar("calls", lambda name, pid: self.three_rates(name, self.tls, [pid]))

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
            self.three_rates(CHAIN, service, pids)
            self.three_rates(f"{CHAIN}, merged", merged, pids)
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
        connections = ["--connections", IDLE_CONNECTIONS, "--at-last", IDLE_CONNECTIONS_AT_LAST]

        def measure(name: str, pid: int) -> None:
            self.record("memory", name, self.machine.load("idle", *self.tls, *connections, *self.window, "--pid", pid))

        self.each_sidecar("idle", measure)

    def sse(self) -> None:
        """Calls that are answered with streams of progress, at a tool's pace and without any."""
        with self.trouble_of("sse", "direct"), self.upstream() as [upstream]:
            self.streams("direct", ["--port", self.peers.ports.upstream], [upstream.pid])
        self.each_sidecar("sse", lambda name, pid: self.streams(name, self.tls, [pid]))
        if self.with_chain:
            with self.trouble_of("sse", CHAIN), self.upstream():
                sidecar = self.machine.start("chain-sidecar", self.peers.sidecar(), PROXY_CPU)
                ingress = self.machine.start("chain-ingress", self.peers.ingress(), PROXY_CPU)
                service = ["--port", self.peers.ports.ingress, "--path", f"/s/{SERVICE}/mcp"]
                self.wait_until_answered(service)
                self.streams(CHAIN, service, [ingress.pid, sidecar.pid])

    def streams(self, name: str, place: list, pids: list[int]) -> None:
        options = [*place, "--connections", STREAMS, *self.window, *of(pids)]
        self.record("sse-paced", name, self.machine.load("events", *options, "--micros", PACED_MICROS))
        self.record("sse-flood", name, self.machine.load("events", *options))

    def router(self) -> None:
        """One address for the tools of ten servers: calls of one tool, and the list of all."""
        if self.routers:
            with self.trouble_of("router", "direct"), self.upstream(self.peers.backends()) as [backends]:
                # What a client pays that goes to one of the servers itself.
                direct = ["--port", self.peers.ports.routed, "--era", "legacy"]
                self.two_rates("direct", direct, [backends.pid], ("router-call", "router-steady"))
        for name, router in self.routers.items():
            # Their clients come in sessions; ours also without, as the newest revision does.
            for era, client in (("legacy", "2025-11-25"), ("modern", "2026-07-28")):
                with self.trouble_of("router", name), self.upstream(self.peers.backends()):
                    self.routed(f"{name}, {client}", router, era)

    def routed(self, name: str, router: Router, era: str) -> None:
        # The servers that it reaches run before it; it is the last to start and the first to be named.
        pids = []
        for number, program in reversed(list(enumerate(router.programs))):
            pids.insert(0, self.machine.start(f"router-{number}", program, PROXY_CPU).pid)
        place = ["--port", router.port, "--era", era]
        listing = [*place, "--list", TOOLS * len(ROUTED), "--connections", 1]
        self.wait_until_listed(listing)
        calls = [*place, "--tool", router.tool]
        self.two_rates(name, calls, pids, ("router-call", "router-steady"))
        self.record("router-list", name, self.machine.load("calls", *listing, *self.window, *of(pids)))

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

    def three_rates(self, name: str, place: list, pids: list[int]) -> None:
        """Also at a share of what this peer has just shown to be its most."""
        rate = int(self.two_rates(name, place, pids) * BUSY_SHARE)
        if rate:
            busy = self.machine.load("calls", *place, *self.window, *of(pids), "--rate", rate)
            self.record("busy", name, busy)

    def two_rates(self, name: str, place: list, pids: list[int], suites: tuple[str, str] = ("most", "steady")) -> float:
        """Returns how many requests per second there were at most."""
        most = self.machine.load("calls", *place, *self.window, *of(pids))
        self.record(suites[0], name, most)
        steady = self.machine.load("calls", *place, *self.long_window, *of(pids), "--rate", STEADY_RATE)
        self.record(suites[1], name, steady)
        return most["rps"]

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

    def wait_until_listed(self, listing: list) -> None:
        """A router that answers may not have learned all of its servers yet."""
        deadline = time.monotonic() + 20
        while True:
            done = self.machine.load("calls", *listing, "--seconds", 0.01)
            if not done["errors"]:
                return
            if time.monotonic() > deadline:
                raise Broken(f"no whole list: {done['last_error']}")

    @contextmanager
    def upstream(self, *programs: Program | None):
        """A fresh upstream, unless `None` says that there is none; whatever was started meanwhile ends with it."""
        before = list(self.machine.children)
        try:
            wanted = filter(None, programs or [self.peers.upstream()])
            yield [self.machine.start("upstream", program, LOAD_CPU) for program in wanted]
        finally:
            for child in [c for c in reversed(self.machine.children) if c not in before]:
                self.machine.stop(child)

    @contextmanager
    def trouble_of(self, suite: str, name: str):
        """One broken peer does not end the run, but the run fails."""
        try:
            yield
        except Broken as problem:
            self.trouble(f"{suite} {name}: {problem}")

    def trouble(self, problem: str) -> None:
        self.broken.append(f"pass {self.number}: {problem}")
        print(f"BROKEN {problem}", flush=True)

    def record(self, suite: str, peer: str, measured: dict) -> None:
        if measured.get("errors"):
            self.trouble(f"{suite} {peer}: {measured['errors']} errors, last {measured['last_error']}")
        self.results.add({"suite": suite, "peer": peer, "pass": self.number, **measured})
        print(f"  {suite:<14}{peer}", flush=True)


def of(pids: list[int]) -> list:
    """The processes whose CPU time and memory count."""
    return [option for pid in pids for option in ("--pid", pid)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    suites = ["calls", "chain", "pairs", "handshakes", "idle", "start", "sse", "router", "egress"]
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of a timed window")
    parser.add_argument("--peers", default="", help="only these, by name; default: all that are installed")
    parser.add_argument("--suites", default=",".join(suites))
    parser.add_argument("--tools", type=Path, default=TARGET / "bench-tools" / "release")
    parser.add_argument("--bin", type=Path, required=True, help="folder with our programs, as release.sh prints it")
    parser.add_argument("--dir", type=Path, default=TARGET / "bench", help="certificates, configuration, logs, results")
    parser.add_argument("--ports", type=int, default=0, help="added to each port, for a run beside another one")
    parser.add_argument("--write", action="store_true", help="also docs/PERFORMANCE.md and its picture")
    args = parser.parse_args()
    if unknown := set(args.suites.split(",")) - set(suites):
        parser.error(f"no such suite: {', '.join(sorted(unknown))}")

    began = time.time()
    args.all_suites = ",".join(suites)
    run = args.dir.resolve()
    run.mkdir(parents=True, exist_ok=True)
    subprocess.run([HERE / "mkcerts.sh", run / "certs"], check=True)
    peers = Peers(run, args.tools.resolve(), args.bin.resolve(), Ports().moved(args.ports))
    # While it runs the rows are in a file of their own, so that a run that is broken off is not lost.
    results = Results.begin(run)
    for name, install in missing().items():
        print(f"MISSING {name}: {install}", flush=True)
    only = set(filter(None, args.peers.split(",")))
    # Whoever ends the run ends what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    with Machine(args.tools.resolve(), run) as machine:
        bench = Bench(machine, peers, results, args.seconds, only)
        for number in range(args.runs):
            bench.number = number + 1
            print(f"pass {number + 1} of {args.runs}", flush=True)
            for suite in args.suites.split(","):
                if number == 0 or suite not in ONCE:
                    getattr(bench, suite)()
    document = results.end(about(began, args, peers.ours, bench.broken))
    print(report(document))
    if args.write:
        write(document)
    return 1 if bench.broken else 0


if __name__ == "__main__":
    sys.exit(main())
