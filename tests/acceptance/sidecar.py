"""Starts a sidecar alone, for clients that reach it directly with a certificate. Stdlib only."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

from mesh import NotReady, Processes

TRUST_DOMAIN = "acceptance.test"
POLICY = """apiVersion: mcpx.io/v1
kind: SecurityPolicy
metadata: { name: everybody }
spec:
  authorization: { rules: [ { name: all, services: ["*"], capabilities: ["*"] } ] }
"""


class Authority:
    """A certificate authority in a folder, made by the tool under test."""

    def __init__(self, binary: str, folder: Path):
        self.binary, self.folder = binary, folder
        if not (folder / "ca.pem").exists():
            self.run("init", "--trust-domain", TRUST_DOMAIN)

    def run(self, command: str, *args: str) -> None:
        argv = [self.binary, "ca", command, *args, "--dir", str(self.folder)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise NotReady(f"{' '.join(argv)} failed: {done.stderr}")

    def issue(self, name: str) -> tuple[Path, Path]:
        """A certificate and its key. Clients of other makers verify names, so it has one besides its SPIFFE id."""
        self.run("issue", name, "--host", "127.0.0.1", "--host", "localhost")
        return self.folder / f"{name}.pem", self.folder / f"{name}.key"


def start_sidecar(processes: Processes, binary: str, authority: Authority, name: str, server: dict) -> dict[str, str]:
    """Runs a sidecar of `server` (`command` or `upstream`); returns what a client needs to reach it."""
    state = authority.folder / name
    state.mkdir(parents=True, exist_ok=True)
    policy, ports = state / "policy.yaml", state / "ports.json"
    policy.write_text(POLICY, encoding="utf-8")
    ports.unlink(missing_ok=True)
    cert, key = authority.issue(name)
    client_cert, client_key = authority.issue("client")
    ca = authority.folder / "ca.pem"
    settings = {
        "service": name,
        "listen": "127.0.0.1:0",
        "admin": {"listen": "127.0.0.1:0"},
        "identity": {"trust_domain": TRUST_DOMAIN, "cert": str(cert), "key": str(key), "ca": str(ca)},
        "policy": [str(policy)],
        **server,
    }
    config = state / "sidecar.yaml"
    config.write_text(json.dumps(settings, indent=2), encoding="utf-8")
    argv = [binary, "sidecar", "--config", str(config)]
    child = processes.start(f"sidecar-{name}", argv, {"OUTRIGGER_REPORT": str(ports)})
    processes.wait_until(f"sidecar-{name}", child, lambda: ports.exists() and ready(ports))
    address = json.loads(ports.read_text(encoding="utf-8"))["mesh"]
    return {
        "MESH_INGRESS_URL": f"https://{address}/mcp",
        "MESH_CA": str(ca),
        "MESH_CLIENT_CERT": str(client_cert),
        "MESH_CLIENT_KEY": str(client_key),
    }


def ready(ports: Path) -> bool:
    admin = json.loads(ports.read_text(encoding="utf-8"))["admin"]
    try:
        with urllib.request.urlopen(f"http://{admin}/readyz", timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False
