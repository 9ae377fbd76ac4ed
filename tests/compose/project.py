"""Compose projects, and callers of the mesh that runs in one."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from images import PREFIX, ROOT, docker

sys.path.append(str(ROOT / "tests" / "acceptance"))

from threads import Threads  # noqa: E402

PATIENCE = 120
MODERN = "2026-07-28"


class Broken(Exception):
    """What a test waited for did not come."""


def eventually(what: str, look: Callable[[], object], patience: float = PATIENCE):
    """The first answer that is true. Looks often: between events nothing is slept through."""
    end = time.monotonic() + patience
    seen: object = None
    while time.monotonic() < end:
        try:
            seen = look()
            if seen:
                return seen
        except (OSError, ValueError, LookupError, NotBegun, Broken, subprocess.CalledProcessError) as error:
            seen = error
        time.sleep(0.1)
    raise Broken(f"{what}: {seen!r}")


class Project:
    """What `docker compose -p NAME -f FILE...` is about. Gone with its volumes at the end of a `with`."""

    def __init__(self, compose: Path, name: str, files: list[str], **environment: str):
        self.command = [str(compose), "--project-name", name, *[word for file in files for word in ("-f", str(ROOT / file))]]
        with socket.socket() as probe:
            # Not one of the engine's choice: that is another one after each restart.
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        self.environment = os.environ | {"OUTRIGGER_IMAGES": PREFIX, "PYTHON_IMAGE": f"{PREFIX}python", "PORT": port} | environment
        self.name = name

    def __enter__(self) -> Project:
        return self

    def __exit__(self, kind, error, _) -> None:
        if kind is not None:
            print(f"---- logs of {self.name}\n{self.logs()[-6000:]}\n----", flush=True)
        self.run("down", "--volumes", "--remove-orphans", "--timeout", "5")

    def run(self, *args: str, check: bool = True) -> str:
        done = subprocess.run([*self.command, *args], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.environment)
        if check and done.returncode:
            raise Broken(f"compose {' '.join(args)}: {done.stderr[-3000:]}\n{self.logs()[-6000:] if args[0] == 'up' else ''}")
        return done.stdout.strip()

    def up(self, *args: str) -> None:
        self.run("up", "--detach", "--no-build", "--wait", *args)

    def containers(self, service: str) -> list[str]:
        return self.run("ps", "--quiet", service).split()

    def container(self, service: str) -> str:
        return self.containers(service)[0]

    def logs(self, *services: str) -> str:
        return self.run("logs", "--no-color", "--no-log-prefix", *services, check=False).replace("\x1b[2K", "")

    def crash(self, container: str) -> None:
        """As the kernel ends a process: docker itself would take it for a wish."""
        os.kill(int(docker("inspect", "--format", "{{.State.Pid}}", container)), 9)

    def address(self, service: str, network: str | None = None) -> str:
        """Of a container, as this machine reaches it; in this network of the project, or in any."""
        networks = json.loads(docker("inspect", "--format", "{{json .NetworkSettings.Networks}}", self.container(service)))
        known = [one["IPAddress"] for name, one in networks.items() if network in (None, name.removeprefix(f"{self.name}_"))]
        return known[0]

    def page(self, service: str, port: int, path: str) -> str:
        with urllib.request.urlopen(f"http://{self.address(service)}:{port}{path}", timeout=10) as reply:
            return reply.read().decode()

    def replicas(self, service: str) -> list[str]:
        """Those that serve, as the ingress sees it."""
        page = json.loads(self.page("ingress", 9090, "/catalog"))["services"].get(service, {})
        return [one["address"] for one in page.get("replicas", []) if one["status"] == "serving" and not one["unreachable"]]

    def metric(self, service: str, port: int, name: str) -> float:
        """The sum over all labels that start like this."""
        lines = [line for line in self.page(service, port, "/metrics").splitlines() if line.startswith(name)]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    def client(self) -> Client:
        there = ROOT / f"target/compose/{self.name}.token"
        self.run("cp", "ingress:/tokens/token", str(there))
        token = there.read_text().strip()
        there.unlink()
        # Past the engine's own proxy of published ports, which takes connections for containers that are not there.
        return Client(lambda: self.address("ingress"), token, f"http://{self.run('port', 'ingress', '8080')}/mcp")


class NotBegun(Exception):
    """Nobody took the call: it can be made again."""


class Client:
    """Calls tools as a client of 2026-07-28, each on a connection of its own."""

    def __init__(self, find: Callable[[], str], token: str, url: str):
        self.find, self.token, self.url = find, token, url
        self.address = find()

    def connected(self) -> http.client.HTTPConnection:
        way = http.client.HTTPConnection(self.address, 8080, timeout=5)
        try:
            way.connect()
        except OSError as error:
            try:
                # A container that was replaced may have another one.
                self.address = self.find()
            except (LookupError, subprocess.CalledProcessError, Broken):
                pass
            raise NotBegun(str(error)) from error
        way.sock.settimeout(60)
        return way

    def request(self, method: str, name: str | None, params: dict) -> dict:
        meta = {"io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {}}
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params | {"_meta": meta}}
        headers = {
            "Host": "localhost", "Authorization": f"Bearer {self.token}", "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream", "MCP-Protocol-Version": MODERN, "Mcp-Method": method,
        } | ({"Mcp-Name": name} if name else {})
        way = self.connected()
        try:
            way.request("POST", "/mcp", json.dumps(body), headers)
            reply = way.getresponse()
            status, text = reply.status, reply.read().decode()
        except (OSError, http.client.HTTPException) as error:
            raise Broken(f"lost: {error!r}") from error
        finally:
            way.close()
        if status == 503:
            raise NotBegun(text)
        if status != 200:
            raise Broken(f"HTTP {status}: {text}")
        events = [line[5:] for line in text.splitlines() if line.startswith("data:")]
        return json.loads(events[-1] if events else text)

    def call(self, tool: str, **arguments: object) -> str:
        """The text of the result."""
        reply = self.request("tools/call", tool, {"name": tool, "arguments": arguments})
        if "error" in reply:
            raise Broken(f"{tool}: {reply['error']}")
        return "".join(part.get("text", "") for part in reply["result"]["content"])

    def tools(self) -> list[str]:
        return [tool["name"] for tool in self.request("tools/list", None, {})["result"]["tools"]]


class Load(Threads):
    """Callers that go on until the end of the `with`; what was begun and failed is in `lost`."""

    def __init__(self, call: Callable[[], object], callers: int = 6):
        super().__init__(*[self.go] * callers)
        self.call, self.done, self.put_off, self.lost = call, 0, 0, []

    def go(self) -> None:
        while not self.ending.is_set():
            try:
                self.call()
                self.done += 1
            except NotBegun:
                self.put_off += 1
                self.ending.wait(0.1)
            except Exception as error:  # noqa: BLE001 - each of them is a lost call
                self.lost.append(str(error))
                self.ending.wait(0.1)
