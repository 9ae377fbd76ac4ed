"""What is measured: our programs, the yardstick, and the proxies that are installed (`installed.py` finds those)."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, fields
from pathlib import Path

from installed import program
from machine import LOAD_CPU, Program

HERE = Path(__file__).resolve().parent
TRUST_DOMAIN = "bench.outrigger.local"
# The service name that the server certificate carries.
SERVICE = "bench"

# What a router has behind it, with as many tools each as the upstream offers.
ROUTED = [f"b{number}" for number in range(10)]
TOOLS = 50

# What forward proxies let through.
ALLOWED = [f"d{number}.allowed.test" for number in range(999)] + ["localhost"]

ENVOY_OPTIONS = ["--concurrency", "1", "-l", "off", "--disable-hot-restart", "-c"]
# What makes Envoy comparable: it reads the JSON-RPC message, as a mesh for MCP must.
MCP_FILTER = """\
- name: envoy.filters.http.mcp
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.mcp.v3.Mcp, traffic_mode: PASS_THROUGH}"""

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
class Router:
    """One address for the tools of ten servers. The first program is the one that clients reach."""

    programs: list[Program]
    port: int
    # Of a tool of one server.
    tool: str = f"{ROUTED[3]}__tool_7"


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
    router: int = 18070
    # The first of ten each.
    routed: int = 19200
    routed_tls: int = 18450
    routed_admin: int = 18030

    def moved(self, by: int) -> Ports:
        """For a run beside another one."""
        return Ports(**{each.name: getattr(self, each.name) + by for each in fields(self)})


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
        if nginx := program("nginx"):
            found["nginx"] = self.configured("nginx.conf", [nginx, "-c"])
        if haproxy := program("haproxy"):
            found["haproxy"] = self.configured("haproxy.cfg", [haproxy, "-db", "-f"])
        if envoy := program("envoy"):
            found["envoy"] = self.configured("envoy.yaml", [envoy, *ENVOY_OPTIONS], values={"MCP": ""})
            found["envoy+mcp"] = self.configured("envoy.yaml", [envoy, *ENVOY_OPTIONS], "envoy-mcp.yaml", {"MCP": MCP_FILTER})
        return found

    def sidecar(self, server: dict[str, str] | None = None) -> Program:
        upstream = {"OUTRIGGER_UPSTREAM": f"http://127.0.0.1:{self.ports.upstream}/mcp"}
        return self.sidecar_of(SERVICE, "server", self.ports.tls, self.ports.sidecar_admin, server or upstream)

    def sidecar_of(self, service: str, identity: str, port: int, admin: int, server: dict[str, str]) -> Program:
        env = {
            **self.common_settings(),
            "OUTRIGGER_SERVICE": service,
            "OUTRIGGER_LISTEN": f"127.0.0.1:{port}",
            "OUTRIGGER_ADMIN_LISTEN": f"127.0.0.1:{admin}",
            # The default is made for callers that share connections; the peers have no limit that is nearer.
            "OUTRIGGER_LIMIT_CONNECTIONS": "20000",
            **server,
            **self.identity(identity),
        }
        return Program([str(self.ours / "outrigger-sidecar")], env, port)

    def ingress(self, services: dict[str, int] | None = None) -> Program:
        """In front of services on these ports; without them, of the one sidecar."""
        services = services or {SERVICE: self.ports.tls}
        known = {name: {"addresses": [f"127.0.0.1:{port}"]} for name, port in services.items()}
        file = self.write(f"ingress-{len(known)}.yaml", json.dumps({"services": known}))
        env = {
            **self.common_settings(),
            "OUTRIGGER_LISTEN": f"127.0.0.1:{self.ports.ingress}",
            "OUTRIGGER_ADMIN_LISTEN": f"127.0.0.1:{self.ports.ingress_admin}",
            "OUTRIGGER_ANONYMOUS": "true",
            "OUTRIGGER_HTTP_SSE": "true",
            **self.identity("client"),
        }
        return Program([str(self.ours / "outrigger-ingress"), "--config", str(file)], env, self.ports.ingress)

    def routers(self) -> dict[str, Router]:
        """Ours with a sidecar beside each server, and what is installed, which reaches the servers without TLS."""
        ports = self.ports
        services, sidecars = {}, []
        for number, name in enumerate(ROUTED):
            server = {"OUTRIGGER_UPSTREAM": f"http://127.0.0.1:{ports.routed + number}/mcp"}
            services[name] = ports.routed_tls + number
            sidecars.append(self.sidecar_of(name, name, services[name], ports.routed_admin + number, server))
        found = {f"ingress + {len(ROUTED)} sidecars": Router([self.ingress(services), *sidecars], ports.ingress)}
        if envoy := program("envoy"):
            backends = {name: ports.routed + number for number, name in enumerate(ROUTED)}
            values = {
                "SERVERS": json.dumps([router_server(name) for name in backends]),
                "CLUSTERS": json.dumps([router_cluster(name, port) for name, port in backends.items()]),
            }
            argv = [envoy, *ENVOY_OPTIONS]
            started = self.configured("envoy-router.yaml", argv, values=values, port=ports.router)
            found["envoy mcp_router"] = Router([started], ports.router)
        return found

    def backends(self) -> Program:
        """The servers behind a router, in one process; they speak both eras, because Envoy's router opens sessions."""
        numbers = [str(self.ports.routed + number) for number in range(len(ROUTED))]
        listen = [option for number in numbers for option in ("--port", number)]
        eras = ["--era", "modern", "--era", "legacy", "--tools", str(TOOLS)]
        return Program([str(self.tools / "upstream"), *listen, *eras], {}, self.ports.routed)

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
        if squid := program("squid"):
            # What an earlier one left in shared memory keeps the next one from starting.
            name = f"squidbench{port}"
            start = ["sh", "-c", f'rm -f /dev/shm/{name}-*; exec "$@"', "sh"]
            found["squid"] = self.configured("squid.conf", [*start, squid, "-N", "-n", name, "-f"], port=port)
        if tinyproxy := program("tinyproxy"):
            found["tinyproxy"] = self.configured("tinyproxy.conf", [tinyproxy, "-d", "-c"], port=port)
        if envoy := program("envoy"):
            found["envoy"] = self.configured("envoy-egress.yaml", [envoy, *ENVOY_OPTIONS], port=port)
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

    def configured(
        self, template: str, argv: list[str], file: str = "", values: dict[str, str] | None = None, port: int | None = None
    ) -> Program:
        """A peer that reads a file: `@NAME@` in its template is filled in."""
        text = (HERE / "configs" / template).read_text(encoding="utf-8")
        known = {
            "TLS": self.ports.tls,
            "UP": self.ports.upstream,
            "CERTS": self.certs,
            "RUN": self.run,
            "EGRESS": self.ports.egress,
            "ROUTER": self.ports.router,
            "ALLOWED": json.dumps([f"{host}:{to}" for host in ALLOWED for to in (self.ports.tunnelled, self.ports.bulk)]),
        }
        for name, value in (known | (values or {})).items():
            text = text.replace(f"@{name}@", str(value))
        return Program([*argv, str(self.write(file or template, text))], {}, port or self.ports.tls)

    def write(self, name: str, text: str) -> Path:
        file = self.run / name
        # A program that is being started may be reading it.
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
        return file


def router_server(name: str) -> dict:
    return {"name": name, "mcp_cluster": {"cluster": name, "path": "/mcp", "timeout": "30s"}}


def router_cluster(name: str, port: int) -> dict:
    """A cluster of one server, without limits that a benchmark would meet."""
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    limits = {"max_connections": 20000, "max_requests": 20000, "max_pending_requests": 20000}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [limits]},
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }
