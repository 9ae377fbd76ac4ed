"""What is measured: our programs, the yardstick, and the proxies that are installed."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

from machine import LOAD_CPU, Program

HERE = Path(__file__).resolve().parent
TRUST_DOMAIN = "bench.outrigger.local"
# The service name that the server certificate carries.
SERVICE = "bench"

# What forward proxies let through.
ALLOWED = [f"d{number}.allowed.test" for number in range(999)] + ["localhost"]

# Everything allowed: what a decision costs is measured, not what a refusal costs.
POLICY = """\
apiVersion: mcpx.io/v1
kind: SecurityPolicy
metadata: { name: bench }
spec:
  authentication: { mtls: { mode: PERMISSIVE } }
  authorization:
    rules:
      - { name: everybody, services: ["*"], capabilities: ["*"], requires: [ { anonymous: true } ] }
"""


REVISIONS = {"modern": "2026-07-28", "legacy": "2025-11-25"}
TRANSPORTS = {"http": "", "sse": " over HTTP+SSE", "stdio": " over stdio"}


@dataclass(frozen=True)
class Pairing:
    """A client of one era that reaches a server of another, or the same, through ingress and sidecar."""

    name: str
    # Where and how the load generator calls.
    place: list
    # A server that runs already; else the sidecar starts it.
    upstream: Program | None
    sidecar: Program


@dataclass(frozen=True)
class Ports:
    """Loopback ports of one run."""

    upstream: int = 19000
    tls: int = 18443
    sidecar_admin: int = 18020
    ingress: int = 18080
    ingress_admin: int = 18090
    egress: int = 15901
    # Behind tunnels: one answers with a few bytes, one with as many as are read.
    tunnelled: int = 19100
    bulk: int = 19101


class Peers:
    """Makes the programs of a run; configuration files go to `run`."""

    def __init__(self, run: Path, tools: Path, ours: Path, ports: Ports):
        self.run = run
        self.certs = run / "certs"
        self.tools = tools
        self.ours = ours
        self.ports = ports

    def upstream(self, *options: str) -> Program:
        port = self.ports.upstream
        return Program([str(self.tools / "upstream"), "--port", str(port), *options], {}, port)

    def opaque(self, port: int, size: int) -> Program:
        """Answers whatever comes with so many bytes."""
        return Program([str(self.tools / "upstream"), "--port", str(port), "--bytes", str(size)], {}, port)

    def sidecars(self) -> dict[str, Program]:
        """Everything that can stand beside a server with mTLS, by name: ours first, then what is installed."""
        found = {"outrigger-sidecar": self.sidecar(), "hyper": self.floor()}
        if nginx := shutil.which("nginx"):
            found["nginx"] = self.configured("nginx.conf", [nginx, "-c"])
        if haproxy := shutil.which("haproxy"):
            found["haproxy"] = self.configured("haproxy.cfg", [haproxy, "-db", "-f"])
        # PyPI has Envoy as a script around the program; measure the program.
        if envoy := shutil.which(os.environ.get("ENVOY", "envoy")):
            options = ["--concurrency", "1", "-l", "off", "--disable-hot-restart", "-c"]
            found["envoy+mcp"] = self.configured("envoy.yaml", [envoy, *options])
        return found

    def sidecar(self, server: dict[str, str] | None = None) -> Program:
        env = {
            **self.common_settings(),
            "OUTRIGGER_SERVICE": SERVICE,
            "OUTRIGGER_LISTEN": f"127.0.0.1:{self.ports.tls}",
            "OUTRIGGER_ADMIN_LISTEN": f"127.0.0.1:{self.ports.sidecar_admin}",
            **(server or {"OUTRIGGER_UPSTREAM": f"http://127.0.0.1:{self.ports.upstream}/mcp"}),
            **self.identity("server"),
        }
        return Program([str(self.ours / "outrigger-sidecar")], env, self.ports.tls)

    def ingress(self) -> Program:
        file = self.write(
            "ingress.yaml", f"services: {{ {SERVICE}: {{ addresses: ['127.0.0.1:{self.ports.tls}'] }} }}\n"
        )
        env = {
            **self.common_settings(),
            "OUTRIGGER_LISTEN": f"127.0.0.1:{self.ports.ingress}",
            "OUTRIGGER_ADMIN_LISTEN": f"127.0.0.1:{self.ports.ingress_admin}",
            "OUTRIGGER_ANONYMOUS": "true",
            "OUTRIGGER_HTTP_SSE": "true",
            **self.identity("client"),
        }
        return Program([str(self.ours / "outrigger-ingress"), "--config", str(file)], env, self.ports.ingress)

    def pairings(self) -> list[Pairing]:
        """Clients of both eras with servers of both over each transport, and clients over HTTP+SSE."""
        servers = [("modern", "http"), ("legacy", "http"), ("legacy", "sse"), ("modern", "stdio"), ("legacy", "stdio")]
        clients = [("modern", "http"), ("legacy", "http")]
        pairs = [(client, server) for client in clients for server in servers]
        pairs += [(("legacy", "sse"), server) for server in servers[:2]]
        return [self.pairing(*client, *server) for client, server in pairs]

    def pairing(self, client: str, over: str, server: str, transport: str) -> Pairing:
        path = f"/s/{SERVICE}/" + ("sse" if over == "sse" else "mcp")
        place = ["--port", self.ports.ingress, "--path", path, "--era", client, *(["--sse"] if over == "sse" else [])]
        options = ["--era", server, *(["--sse"] if transport == "sse" else [])]
        upstream = None if transport == "stdio" else self.upstream(*options)
        end = "sse" if transport == "sse" else "mcp"
        settings = {"OUTRIGGER_UPSTREAM": f"http://127.0.0.1:{self.ports.upstream}/{end}"}
        if transport == "sse":
            settings["OUTRIGGER_ERA"] = "http+sse"
        if not upstream:
            command = ["taskset", "-c", LOAD_CPU, str(self.tools / "upstream"), *options]
            settings = {"OUTRIGGER_COMMAND": shlex.join(command)}
        name = f"{REVISIONS[client]}{TRANSPORTS[over]} to {REVISIONS[server]}{TRANSPORTS[transport]}"
        return Pairing(name, place, upstream, self.sidecar(settings))

    def forward_proxies(self) -> dict[str, Program]:
        """Everything that can let a server's connections out by an allowlist of a thousand names, ours first."""
        port = self.ports.egress
        found = {"outrigger-sidecar": self.egress(self.egress_rule()), "outrigger-sidecar, raw": self.egress(self.egress_rule(raw=True))}
        self.write("allow.txt", "\n".join(ALLOWED) + "\n")
        self.write("allow.regex", "".join(f"^{host.replace('.', '[.]')}$\n" for host in ALLOWED))
        if squid := shutil.which("squid"):
            # What an earlier one left in shared memory keeps the next one from starting.
            start = ["sh", "-c", 'rm -f /dev/shm/squidbench-*; exec "$@"', "sh"]
            found["squid"] = self.configured("squid.conf", [*start, squid, "-N", "-n", "squidbench", "-f"], port)
        if tinyproxy := shutil.which("tinyproxy"):
            found["tinyproxy"] = self.configured("tinyproxy.conf", [tinyproxy, "-d", "-c"], port)
        if envoy := shutil.which(os.environ.get("ENVOY", "envoy")):
            options = ["--concurrency", "1", "-l", "off", "--disable-hot-restart", "-c"]
            found["envoy"] = self.configured("envoy-egress.yaml", [envoy, *options], port)
        return found

    def egress_rule(self, **more: bool) -> dict:
        to = [self.ports.tunnelled, self.ports.bulk]
        return {"name": "bench", "hosts": ALLOWED, "ports": to, "addresses": ["127.0.0.0/8", "::1"], **more}

    def egress(self, rule: dict) -> Program:
        listen = f"127.0.0.1:{self.ports.egress}"
        settings = {"egress": {"listen": listen, "log": "off", "rules": [rule], "limits": {"connections": 20000}}}
        # JSON is YAML.
        file = self.write(f"egress{'-raw' if rule.get('raw') else ''}.yaml", json.dumps(settings))
        env = {"OUTRIGGER_THREADS": "1", "OUTRIGGER_SERVICE": SERVICE, "OUTRIGGER_ADMIN_LISTEN": f"127.0.0.1:{self.ports.sidecar_admin}"}
        return Program([str(self.ours / "outrigger-sidecar"), "--egress-only", "--config", str(file)], env, self.ports.egress)

    def common_settings(self) -> dict[str, str]:
        # One thread each, and no record per request: as the peers are set up.
        policy = self.write("policy.yaml", POLICY)
        return {"OUTRIGGER_POLICY": str(policy), "OUTRIGGER_THREADS": "1", "OUTRIGGER_AUDIT": "off"}

    def identity(self, name: str) -> dict[str, str]:
        return {
            "OUTRIGGER_TRUST_DOMAIN": TRUST_DOMAIN,
            "OUTRIGGER_CERT": str(self.certs / f"{name}.pem"),
            "OUTRIGGER_KEY": str(self.certs / f"{name}.key"),
            "OUTRIGGER_CA": str(self.certs / "ca.pem"),
        }

    def floor(self) -> Program:
        argv = ["--listen", str(self.ports.tls), "--to", str(self.ports.upstream), "--certs", str(self.certs)]
        return Program([str(self.tools / "floor"), *argv], {}, self.ports.tls)

    def configured(self, template: str, argv: list[str], port: int | None = None) -> Program:
        """A peer that reads a file: `@NAME@` in its template is filled in."""
        text = (HERE / "configs" / template).read_text(encoding="utf-8")
        values = {
            "TLS": self.ports.tls,
            "UP": self.ports.upstream,
            "CERTS": self.certs,
            "RUN": self.run,
            "EGRESS": port or self.ports.egress,
            "ALLOWED": json.dumps([f"{host}:{to}" for host in ALLOWED for to in (self.ports.tunnelled, self.ports.bulk)]),
        }
        for name, value in values.items():
            text = text.replace(f"@{name}@", str(value))
        return Program([*argv, str(self.write(template, text))], {}, port or self.ports.tls)

    def write(self, name: str, text: str) -> Path:
        file = self.run / name
        # A program that is being started may be reading it.
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
        return file
