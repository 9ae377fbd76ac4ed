"""Starts and stops what a test through a whole mesh needs: servers, and `outrigger up` in front of them. Stdlib only."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

# A cold start on a loaded two-core machine, debug build.
READY_SECONDS = 90


class NotReady(Exception):
    """Something did not come up; the text says what and shows the end of its log."""


@dataclass(frozen=True)
class Subjects:
    """Where `make subjects` installed the programs that nobody here wrote."""

    root: Path

    @property
    def node_modules(self) -> Path:
        return self.root / "npm" / "node_modules"

    @property
    def python(self) -> str:
        return str(self.root / "venv" / "bin" / "python3")

    @property
    def node(self) -> str:
        pinned = self.node_modules / ".bin" / "node"
        return str(pinned) if pinned.exists() else "node"

    def environment(self) -> dict[str, str]:
        """The environment of this process with the subjects first in PATH."""
        folders = [self.node_modules / ".bin", self.root / "venv" / "bin", os.environ["PATH"]]
        return {**os.environ, "PATH": os.pathsep.join(map(str, folders))}

    def check(self) -> None:
        if not (self.root / "installed").exists():
            raise NotReady(f"no test subjects in {self.root}: run `make subjects`")


@dataclass(frozen=True)
class Mesh:
    """A running mesh, as its `up.json` describes it."""

    document: dict

    @classmethod
    def load(cls, path: Path) -> Mesh:
        return cls(json.loads(path.read_text(encoding="utf-8")))

    @property
    def merged(self) -> str:
        return self.document["mcp"]

    def service(self, name: str) -> str:
        """The endpoint of one service, without prefixes."""
        return self.merged.removesuffix("/mcp") + f"/s/{name}/mcp"

    def credentials(self) -> dict[str, str]:
        """What the acceptance clients need in their environment to be let in."""
        env = {}
        if self.document.get("token_file"):
            env["MESH_TOKEN"] = Path(self.document["token_file"]).read_text(encoding="utf-8").strip()
        if self.merged.startswith("https:") and self.document.get("ca_file"):
            env["MESH_CA"] = self.document["ca_file"]
        return env


class Processes:
    """Child processes with one owner: leaving the `with` block ends every one of them with its whole group."""

    def __init__(self, logs: Path, environment: dict[str, str]):
        self.logs = logs
        self.environment = environment
        self.children: list[subprocess.Popen] = []
        logs.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for child in reversed(self.children):
            self.stop(child)

    def start(self, name: str, argv: list[str], extra_env: dict[str, str] | None = None) -> subprocess.Popen:
        log = open(self.log(name), "w", encoding="utf-8")
        with log:
            child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**self.environment, **(extra_env or {})},
                start_new_session=True,
            )
        self.children.append(child)
        return child

    def stop(self, child: subprocess.Popen) -> None:
        if child.poll() is not None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(child.pid, number)
                child.wait(20)
                return
            except ProcessLookupError:
                return
            except subprocess.TimeoutExpired:
                continue

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def serve(self, name: str, argv: list[str], port: int, extra_env: dict[str, str] | None = None) -> None:
        """Starts a server and returns when it accepts connections on its loopback port."""
        child = self.start(name, argv, extra_env)

        def listening() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        self.wait_until(name, child, listening)

    def wait_until(self, name: str, child: subprocess.Popen, ready) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not ready():
            if child.poll() is not None or time.monotonic() > deadline:
                state = "did not get ready" if child.poll() is None else f"ended with status {child.returncode}"
                tail = self.log(name).read_text(encoding="utf-8", errors="replace")[-3000:]
                raise NotReady(f"{name} {state}; its log {self.log(name)} ends:\n{tail}")
            time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start_mesh(processes: Processes, binary: str, manifest: dict, state: Path, wanted: list[str]) -> Mesh:
    """Runs `outrigger up` on `manifest` and waits until it is ready and serves every service in `wanted`."""
    state.mkdir(parents=True, exist_ok=True)
    up_json = state / "up.json"
    up_json.unlink(missing_ok=True)
    # JSON is YAML, so no YAML library is needed to write a manifest.
    file = state / "mesh.yaml"
    file.write_text(json.dumps(manifest, indent=2), encoding="utf-8")
    child = processes.start("mesh", [binary, "up", "-f", str(file), "--dir", str(state)])
    processes.wait_until("mesh", child, up_json.exists)
    mesh = Mesh.load(up_json)
    for name in wanted:
        if name not in mesh.document["services"]:
            raise NotReady(f"{up_json} does not name the service {name}: {mesh.document['services']}")
    return mesh
