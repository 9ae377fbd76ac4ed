"""The mesh that a drill harms: `outrigger up` with a stdio server that nobody here wrote and the drill server, further
members with settings of their own, and the eyes on all of them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import census
from wire import Endpoint, message

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "acceptance"))

from mesh import READY_SECONDS, Mesh, NotReady, Processes, Subjects, free_port, start_mesh  # noqa: E402

# The stdio server and the one over HTTP, under the names of their services.
STDIO, HTTP = "everything", "drill"
ECHOES = [f"{STDIO}__echo", f"{HTTP}__echo"]
METRIC = re.compile(r'^(\w+)(?:\{(.*)\})? ([0-9.e+-]+|NaN)$')


@dataclass
class Member:
    """A process of the mesh that the drill started itself, beside those of `up`."""

    name: str
    child: subprocess.Popen
    mcp: str
    admin: str
    started: float = field(default_factory=time.monotonic)

    @property
    def pid(self) -> int:
        return self.child.pid

    def signal(self, number: int) -> None:
        self.child.send_signal(number)

    def ended(self, within: float) -> int | None:
        """Its exit code; `None` while it runs on."""
        try:
            return self.child.wait(within)
        except subprocess.TimeoutExpired:
            return None


class World:
    """One mesh with its own directory. Everything that it starts ends with the `with` block."""

    def __init__(self, binary: str, subjects: Subjects, root: Path, up: list[str] | None = None):
        self.binary, self.subjects, self.root = binary, subjects, root
        self.more = up or []
        self.processes = Processes(root / "logs", subjects.environment())
        self.state = root / "state"
        self.servers: dict[str, subprocess.Popen] = {}
        self.ports: dict[str, int] = {}

    def __enter__(self) -> World:
        self.processes.__enter__()
        try:
            self.serve(HTTP)
            # One copy for all: a copy for each session of the load would stay for minutes and blur what is counted.
            stdio = {"command": ["mcp-server-everything", "stdio"], "session": "shared"}
            services = {STDIO: stdio, HTTP: {"url": self.url(HTTP)}}
            self.mesh = self.start(services)
        except BaseException:
            self.processes.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.processes.__exit__()

    def start(self, services: dict) -> Mesh:
        manifest = {"mesh": "drill", "ingress": {"listen": "127.0.0.1:0"}, "services": services}
        if not self.more:
            mesh = start_mesh(self.processes, self.binary, manifest, self.state, list(services))
        else:
            mesh = self.start_with_options(manifest)
        self.up = self.processes.children[-1]
        return mesh

    def start_with_options(self, manifest: dict) -> Mesh:
        self.state.mkdir(parents=True, exist_ok=True)
        file = self.state / "mesh.yaml"
        file.write_text(json.dumps(manifest), encoding="utf-8")
        argv = [self.binary, "up", "-f", str(file), "--dir", str(self.state), *self.more]
        child = self.processes.start("mesh", argv)
        self.processes.wait_until("mesh", child, (self.state / "up.json").exists)
        return Mesh.load(self.state / "up.json")

    # Servers.

    def serve(self, name: str) -> None:
        """Starts a drill server, again on its old port when it had one."""
        port = self.ports.setdefault(name, free_port())
        self.processes.serve(name, [self.subjects.python, str(HERE / "server.py"), str(port)], port)
        self.servers[name] = self.processes.children[-1]

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.ports[name]}/mcp"

    # What there is.

    @property
    def token(self) -> str:
        return Path(self.mesh.document["token_file"]).read_text(encoding="utf-8").strip()

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self.mesh.merged, self.token)

    def sidecar(self, name: str) -> tuple[str, int]:
        host, port = self.mesh.document["services"][name]["sidecar"].rsplit(":", 1)
        return host, int(port)

    def part(self, name: str, within: float = 20) -> int:
        """The process id of a part that `up` runs; waits while it is being started again."""
        end = time.monotonic() + within
        while time.monotonic() < end:
            for pid in census.children(self.up.pid):
                words = census.arguments(pid)
                if words and words[-2:-1] and words[-2].endswith(f"/{name}.yaml") or f"/{name}.yaml" in " ".join(words):
                    return pid
            time.sleep(0.02)
        raise NotReady(f"`up` runs no {name}")

    def stdio_children(self) -> list[int]:
        """The copies of the stdio server themselves, below sidecar and guard."""
        below = census.tree(self.part(STDIO))
        return [pid for pid in below if "guard" not in " ".join(census.arguments(pid)) and not census.children(pid)]

    # Files and members of our own.

    def identity(self, name: str) -> dict:
        own, ca = self.state / "identity" / name, self.state / "ca"
        files = {"cert": own / f"{name}.pem", "key": own / f"{name}.key", "ca": ca / "ca.pem", "crl": ca / "crl.pem"}
        return {"trust_domain": "drill.outrigger.local", **{what: str(path) for what, path in files.items()}}

    def ingress_settings(self, services: dict[str, tuple[str, int]] | None = None, **more: object) -> dict:
        """Those of another ingress in front of the same sidecars; `more` wins."""
        places = services or {name: self.sidecar(name) for name in (STDIO, HTTP)}
        digest = hashlib.sha256(self.token.encode()).hexdigest()
        token = {"subject": "local", "sha256": digest, "roles": ["admin"], "scopes": ["read", "write"]}
        return {
            "listen": "127.0.0.1:0",
            "admin": {"listen": "127.0.0.1:0"},
            "identity": self.identity("ingress"),
            "services": {name: {"addresses": ["{}:{}".format(*at)]} for name, at in places.items()},
            "policy": [str(self.state / "policy.yaml")],
            "tokens": [token],
            **more,
        }

    def sidecar_settings(self, name: str, url: str, **more: object) -> dict:
        """Those of another sidecar of the service `name`, in front of a server of the drill."""
        return {
            "service": name,
            "listen": "127.0.0.1:0",
            "admin": {"listen": "127.0.0.1:0"},
            "upstream": url,
            "identity": self.identity(name),
            "policy": [str(self.state / "policy-inside.yaml")],
            **more,
        }

    def member(self, role: str, label: str, settings: dict, prefix: list[str] | None = None) -> Member:
        """Starts `outrigger ROLE` with these settings and waits until it is ready."""
        audit = self.root / f"{label}-audit.jsonl"
        config, report = self.root / f"{label}.json", self.root / f"{label}-report.json"
        config.write_text(json.dumps({"audit": str(audit), **settings}), encoding="utf-8")
        report.unlink(missing_ok=True)
        argv = [*(prefix or []), self.binary, role, "--config", str(config)]
        child = self.processes.start(label, argv, {"OUTRIGGER_REPORT": str(report)})
        self.processes.wait_until(label, child, report.exists)
        told = json.loads(report.read_text(encoding="utf-8"))
        member = Member(label, child, told.get("mcp") or told.get("mesh"), told["admin"])
        self.processes.wait_until(label, child, lambda: self.ready(member.admin))
        return member

    def at(self, member: Member) -> Endpoint:
        return Endpoint(f"http://{member.mcp}/mcp", self.token)

    # What it says of itself.

    def admin(self, name: str) -> str:
        """The admin address of a part of `up`, which may differ after each of its restarts."""
        if name == "ingress":
            return self.mesh_document()["admin"].removeprefix("http://").split("/")[0]
        return self.mesh_document()["services"][name]["admin"]

    def mesh_document(self) -> dict:
        try:
            return json.loads((self.state / "up.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return self.mesh.document

    def ready(self, admin: str) -> bool:
        try:
            return ask(admin, "/readyz")[0] == 200
        except OSError:
            return False


def ask(admin: str, path: str, timeout: float = 5) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{admin}{path}", timeout=timeout) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def metrics(admin: str) -> dict[tuple[str, str], float]:
    """Every series of a process, by name and labels."""
    lines = (METRIC.match(line) for line in ask(admin, "/metrics")[1].splitlines())
    return {(found[1], found[2] or ""): float(found[3]) for found in lines if found}


def total(series: dict[tuple[str, str], float], name: str, *labels: str, without: str = "") -> float:
    chosen = (v for (n, l), v in series.items() if n == name and all(part in l for part in labels))
    if not without:
        return sum(chosen)
    return sum(v for (n, l), v in series.items() if n == name and all(p in l for p in labels) and without not in l)


class Stranger:
    """Tries, all the time, what must never work: no token, no TLS, no certificate."""

    def __init__(self, ingress: Endpoint, sidecar: tuple[str, int]):
        self.ingress, self.sidecar = ingress, sidecar
        self.let_in: list[str] = []
        self.tries = 0
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def __enter__(self) -> Stranger:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        self.thread.join(20)

    def run(self) -> None:
        anonymous = Endpoint(self.ingress.url)
        body = json.dumps(message("tools/list", {})).encode()
        heads = "".join(f"{name}: {value}\r\n" for name, value in anonymous.headers("tools/list").items())
        raw = f"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n{heads}\r\n".encode() + body
        while not self.ending.wait(0.3):
            self.tries += 1
            self.expect_refusal("without a token", lambda: self.speak(self.ingress.address, raw))
            self.expect_refusal("without TLS", lambda: self.speak(self.sidecar, raw))
            self.expect_refusal("without a certificate", lambda: self.speak(self.sidecar, raw, tls=True))

    def expect_refusal(self, how: str, attempt) -> None:
        try:
            answer = attempt()
        except OSError:
            return
        if answer.split(b" ")[1:2] == [b"200"]:
            self.let_in.append(how)

    def speak(self, address: tuple[str, int], raw: bytes, tls: bool = False) -> bytes:
        with socket.create_connection(address, 3) as plain:
            if not tls:
                plain.sendall(raw)
                return plain.recv(200)
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            with context.wrap_socket(plain) as secure:
                secure.sendall(raw)
                return secure.recv(200)


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def alive(pid: int) -> bool:
    fields = census.stat(pid)
    return bool(fields) and fields[0] != "Z"


def wait_for(what, within: float, every: float = 0.05):
    """The first truthy value of `what()`, or what it says at the end."""
    end = time.monotonic() + within
    while not (value := what()) and time.monotonic() < end:
        time.sleep(every)
    return value
