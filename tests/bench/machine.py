"""Processes, cores and priorities of the benchmarks. Stdlib only."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

# Proxies on one core, load and upstream on the other, so that neither takes the other's time.
PROXY_CPU = os.environ.get("PROXY_CPU", "0")
LOAD_CPU = os.environ.get("LOAD_CPU", "1")
# Raising priority needs root; without it the figures are only noisier.
MAY_RAISE = os.geteuid() == 0
NICE = ["nice", "-n", "-10"] if MAY_RAISE else []
READY_SECONDS = 20
LOAD_SECONDS = 120


class Broken(Exception):
    """A program did not start, or did not answer; the text says which and why."""


@dataclass(frozen=True)
class Program:
    """How to run something: argv and what its environment has besides ours."""

    argv: list[str]
    env: dict[str, str]
    # The port that shows that it is up.
    port: int


class Machine:
    """Starts programs on their cores and ends them; runs the load generator."""

    def __init__(self, tools: Path, logs: Path):
        self.tools = tools
        self.logs = logs
        self.children: list[subprocess.Popen] = []

    def __enter__(self) -> Machine:
        # Thousands of connections, in each of the programs that this one starts.
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        return self

    def __exit__(self, *_: object) -> None:
        for child in reversed(list(self.children)):
            self.stop(child)

    def start(self, name: str, program: Program, cpu: str) -> subprocess.Popen:
        """Runs a program and returns when its port is open."""
        if answers(program.port):
            raise Broken(f"{name}: something else listens on port {program.port}; end it, or move this run: --ports 3000")
        with open(self.logs / f"{name}.log", "w", encoding="utf-8") as log:
            child = subprocess.Popen(
                ["taskset", "-c", cpu, *NICE, *program.argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **program.env},
                start_new_session=True,
            )
        raise_autogroup(child.pid)
        self.children.append(child)
        self.wait_for(name, child, program.port)
        return child

    def wait_for(self, name: str, child: subprocess.Popen, port: int) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while True:
            if answers(port):
                return
            if child.poll() is not None or time.monotonic() > deadline:
                tail = (self.logs / f"{name}.log").read_text(encoding="utf-8", errors="replace")[-1500:]
                raise Broken(f"{name} did not open port {port}:\n{tail}")
            time.sleep(0.01)

    def stop(self, child: subprocess.Popen) -> None:
        self.children.remove(child)
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(child.pid, number)
                child.wait(5)
                return
            except ProcessLookupError:
                return
            except subprocess.TimeoutExpired:
                continue

    def load(self, mode: str, *arguments: object, cpu: str = LOAD_CPU) -> dict:
        """Runs the load generator; returns what it measured."""
        paced = "--rate" in arguments
        # At a fixed rate other work on the machine would set the latency: everything measured runs ahead of it.
        priority = (["chrt", "-r", "1"] if paced else NICE) if MAY_RAISE else []
        command = ["taskset", "-c", cpu, *priority, str(self.tools / "load"), mode, *map(str, arguments)]
        self.realtime(paced)
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LOAD_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise Broken(f"the load generator did not end: {' '.join(command)}") from None
        finally:
            self.realtime(False)
        if done.returncode != 0:
            raise Broken(done.stderr.strip()[-600:])
        return json.loads(done.stdout)

    def realtime(self, on: bool) -> None:
        if not MAY_RAISE:
            return
        policy = ["-r", "-p", "1"] if on else ["-o", "-p", "0"]
        for child in self.children:
            for pid in descendants(child.pid):
                subprocess.run(["chrt", "-a", *policy, str(pid)], capture_output=True, check=False)


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def descendants(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout.split()
    return [pid, *(deeper for child in found for deeper in descendants(int(child)))]


def raise_autogroup(pid: int) -> None:
    """With kernel autogroups a nice value counts only inside one session: raise the session's group as well."""
    if MAY_RAISE:
        try:
            Path(f"/proc/{pid}/autogroup").write_text("-10", encoding="ascii")
        except OSError:
            pass  # a kernel without autogroups needs none of this
