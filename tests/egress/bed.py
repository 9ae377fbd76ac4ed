"""Where the attack cases run: two network namespaces, a pod with sidecar and server, and a world outside. Needs root."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
DNS = "20.20.20.53"
OUTSIDE = [
    "20.20.20.10/24", "20.20.20.11/24", "20.20.20.12/24", "20.20.20.66/24", f"{DNS}/24", "169.254.169.254/32",
    "100.100.100.200/32", "10.0.0.5/32", "100.64.0.5/32", "fd00:ec2::254/128", "64:ff9b::7f00:1/128", "2600:1f00::1/64",
]  # fmt: skip
NAMES = ["allowed.test", "*.wild.test", "wild.test", "xn--bcher-kva.test", "evil.test", "localhost"]
READY_SECONDS = 60


class Broken(Exception):
    """Something of the bed itself does not work."""


def run(*command: str, **options: object) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if done.returncode:
        raise Broken(f"{' '.join(command)}: {done.stderr or done.stdout}")
    return done.stdout


class Bed:
    """Both namespaces and what runs in them; leaving the `with` block removes everything."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.pod, self.world = f"oe-pod-{os.getpid()}", f"oe-world-{os.getpid()}"
        self.running: list[subprocess.Popen] = []
        # What arrived, in order. `inner`: at the pod's own loopback address.
        self.hits: list[dict] = []

    def __enter__(self) -> Bed:
        try:
            self.network()
            self.certificates()
            self.origins(self.world, "--dns", DNS)
            self.origins(self.pod, inner=True)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self.running):
            self.end(process)
        for namespace in (self.pod, self.world):
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)
        shutil.rmtree(f"/etc/netns/{self.pod}", ignore_errors=True)

    def network(self) -> None:
        for namespace in (self.pod, self.world):
            run("ip", "netns", "add", namespace)
            run("ip", "-n", namespace, "link", "set", "lo", "up")
        run("ip", "link", "add", "oe0", "netns", self.pod, "type", "veth", "peer", "name", "oe1", "netns", self.world)
        for namespace, link, addresses in ((self.pod, "oe0", ["20.20.20.1/24", "2600:1f00::2/64"]), (self.world, "oe1", OUTSIDE)):
            for address in addresses:
                run("ip", "-n", namespace, "addr", "add", address, "dev", link, *(["nodad"] if ":" in address else []))
            run("ip", "-n", namespace, "link", "set", link, "up")
        run("ip", "-n", self.pod, "route", "add", "default", "via", "20.20.20.10")
        run("ip", "-n", self.pod, "-6", "route", "add", "default", "via", "2600:1f00::1")
        # What `ip netns exec` shows as /etc/hosts and /etc/resolv.conf inside.
        files = Path(f"/etc/netns/{self.pod}")
        files.mkdir(parents=True)
        (files / "hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
        (files / "resolv.conf").write_text(f"nameserver {DNS}\noptions timeout:2 attempts:1\n")

    def certificates(self) -> None:
        def openssl(*arguments: str) -> None:
            run("openssl", *arguments, cwd=self.directory)

        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        openssl("req", "-x509", *key, "-days", "2", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=origins")
        openssl("req", *key, "-keyout", "origin.key", "-out", "origin.csr", "-subj", "/CN=origin")
        (self.directory / "names").write_text("subjectAltName=" + ",".join(f"DNS:{name}" for name in NAMES))
        ca = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2"]
        openssl("x509", "-req", "-in", "origin.csr", *ca, "-extfile", "names", "-out", "origin.pem")

    def origins(self, namespace: str, *options: str, inner: bool = False) -> None:
        world = self.start(namespace, sys.executable, str(HERE / "world.py"), str(self.directory), *options)
        line = world.stdout.readline()
        if not line or not json.loads(line).get("ready"):
            raise Broken(f"the origins do not start: {world.stderr.read()}")

        def listen() -> None:
            for line in world.stdout:
                self.hits.append({**json.loads(line), "inner": inner})

        threading.Thread(target=listen, daemon=True).start()

    def start(self, namespace: str, *command: str, **env: str) -> subprocess.Popen:
        log = open(self.directory / f"{len(self.running)}-{Path(command[0]).name}.log", "w", encoding="utf-8")
        with log:
            process = subprocess.Popen(
                ["ip", "netns", "exec", namespace, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, **env},
            )
        process.log = Path(log.name)
        self.running.append(process)
        return process

    def start_and_wait(self, file: Path, *command: str, namespace: str | None = None, **env: str) -> subprocess.Popen:
        """Starts something of ours, in the pod unless said otherwise, which is ready when it has written `file`."""
        file.unlink(missing_ok=True)
        process, end = self.start(namespace or self.pod, *command, **env), time.monotonic() + READY_SECONDS
        # Nobody reads it, and a full pipe would stop it.
        threading.Thread(target=process.stdout.read, daemon=True).start()
        while not file.exists():
            if process.poll() is not None or time.monotonic() > end:
                raise Broken(f"{command[0]} does not start: {process.log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)
        return process

    def ask(self, child: subprocess.Popen, question: dict) -> str:
        """One line to a child, and what it says to that."""
        try:
            child.stdin.write(json.dumps(question) + "\n")
            child.stdin.flush()
            return json.loads(child.stdout.readline())["said"]
        except (BrokenPipeError, json.JSONDecodeError):
            raise Broken(f"{child.args} ended: {child.log.read_text(errors='replace')[-2000:]}") from None

    def end(self, process: subprocess.Popen) -> None:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process in self.running:
            self.running.remove(process)
