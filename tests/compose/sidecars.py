"""compose/add-a-sidecar.yaml with servers that were taken over: what gets out, what is there after restarts, and what calls lose by them."""

from __future__ import annotations

import os
import subprocess
import threading

from checks import Checks
from images import PREFIX, docker
from leftovers import LABEL
from project import Client, Project, eventually

# A question for `evil.test`, as it is on the wire.
QUESTION = "123401000001000000000000" + "046576696c0474657374" + "0000010001"
# A network of the open internet that is this run's alone: engines refuse networks that overlap, and two runs may go on at once.
NET = f"20.{20 + os.getpid() // 256 % 200}.{os.getpid() % 256}"
WORLD = f"{NET}.9"
# Which version of Landlock the kernel of containers has: landlock_create_ruleset(NULL, 0, LANDLOCK_CREATE_RULESET_VERSION).
LANDLOCK = "import ctypes, platform; print(ctypes.CDLL(None).syscall(444, None, 0, 1), platform.release())"
LANDLOCK_WANTED = 6


def run(checks: Checks) -> None:
    files = ["compose/quickstart.yaml", "compose/add-a-sidecar.yaml", "tests/compose/world.yaml"]
    more = {
        "WORLD": WORLD, "WORLD_NET": f"{NET}.0/24", "WEB_ALLOW": "allowed.test:80", "READER_ALLOW": "allowed.test:80", "DNS": WORLD,
        "READER_COMMAND": "python3 /tests/server.py",
    }
    on_stdio = ["reader", "confined"] if can_confine() else ["reader"]
    with checks.project("add", *files, **more) as project:
        project.up("ca", "token", "ingress", "program", "world", "web-net", "web-sidecar", "web", "reader-egress", *on_stdio)
        client = project.client()
        eventually("all of them", lambda: {f"{service}__get" for service in ("web", *on_stdio)} <= set(client.tools()))
        over_http(checks, project, client)
        for service in on_stdio:
            over_stdio(checks, project, client, service)
        orphans(checks, client)
        restarts(checks, project, client)


def can_confine() -> bool:
    """Whether `OUTRIGGER_SANDBOX: strict` can work here. The other servers can be checked without it."""
    version, _, kernel = docker("run", "--rm", "--label", f"{LABEL}={os.getpid()}", f"{PREFIX}python", "python3", "-c", LANDLOCK).partition(" ")
    if int(version) >= LANDLOCK_WANTED:
        return True
    print(
        f"LEFT OUT: the confined server needs Linux 6.12 or later (Landlock {LANDLOCK_WANTED}). This kernel is {kernel}, "
        + (f"with Landlock {version}" if int(version) > 0 else "without Landlock"), flush=True,
    )
    return False


def reached(project: Project) -> list[str]:
    """What arrived in the world."""
    return project.logs("world").split("\n")


def refused(checks: Checks, client: Client, what: str, tool: str, **arguments: object) -> None:
    said = client.call(tool, **arguments)
    checks.that(f"{what} is refused", said.startswith("refused"), said)


def over_http(checks: Checks, project: Project, client: Client) -> None:
    def call(tool: str, **arguments: object) -> str:
        return client.call(f"web__{tool}", **arguments)

    checks.that("HTTP: an allowed name is reached", call("get", url="http://allowed.test/") == "out: hello", project.logs("web-sidecar")[-1500:])
    checks.that("HTTP: it has its address", WORLD in call("lookup", name="allowed.test"))
    before = len(reached(project))
    for what, tool, arguments in (
        ("another name", "get", {"url": "http://evil.test/"}),
        ("an address", "get", {"url": f"http://{WORLD}/"}),
        ("another name's look-up", "lookup", {"name": "evil.test"}),
        ("QUIC", "udp", {"host": WORLD, "port": 443, "data": "c0ffee"}),
        ("another container", "tcp", {"host": project.address("ca"), "port": 8440}),
    ):
        said = call(tool, **arguments)
        # TCP is taken by the sidecar, which says no in HTTP or with an end.
        good = said.startswith("refused") or (tool == "tcp" and project.logs("web-sidecar").count('"verdict":"denied"'))
        checks.that(f"HTTP: {what} is refused", good, said)
    for what, host in (("a resolver of its own", WORLD), ("Docker's resolver", "127.0.0.11")):
        said = call("udp", host=host, port=53, data=QUESTION)
        # No such name: the sidecar's answer, whoever was asked.
        checks.that(f"HTTP: {what} is the sidecar's", said.startswith("out: 12348183"), said)
    ports = [int(port) for port in call("engine_ports").split()]
    checks.that("Docker's resolver has ports of its own", ports)
    for port in ports:
        said = call("udp", host="127.0.0.11", port=port, data=QUESTION)
        checks.that("HTTP: Docker's resolver on a port of its own is refused", said.startswith("refused"), said)
    after = [line for line in reached(project)[before:] if line]
    checks.that("HTTP: nothing of it arrived", not after, after)
    inside = project.address("web-net")
    probe = f"import socket; socket.create_connection(('{inside}', 9001), 2)"
    past = subprocess.run(["docker", "exec", project.container("world"), "python3", "-c", probe], stderr=subprocess.PIPE, text=True)
    checks.that("HTTP: nobody reaches the server past its sidecar", "imed out" in past.stderr or "refused" in past.stderr, past.stderr)


def over_stdio(checks: Checks, project: Project, client: Client, service: str) -> None:
    said = client.call(f"{service}__get", url="http://allowed.test/", proxied=True)
    checks.that(f"{service}: an allowed name is reached by the proxy", said == "out: hello", said)
    before = len(reached(project))
    for what, tool, arguments in (
        ("another name by the proxy", "get", {"url": "http://evil.test/", "proxied": True}),
        ("an allowed name past the proxy", "get", {"url": "http://allowed.test/"}),
        ("an address", "get", {"url": f"http://{WORLD}/"}),
        ("a look-up", "lookup", {"name": "evil.test"}),
        ("QUIC", "udp", {"host": WORLD, "port": 443, "data": "c0ffee"}),
        ("a resolver of its own", "udp", {"host": WORLD, "port": 53, "data": QUESTION}),
        ("another service", "tcp", {"host": project.address("web-net"), "port": 8443}),
        ("its admin port", "tcp", {"host": project.address("web-net"), "port": 15020}),
        ("the authority, where others reach it", "tcp", {"host": project.address("ca", "default"), "port": 9440}),
    ):
        refused(checks, client, f"{service}: {what}", f"{service}__{tool}", **arguments)
    after = [line for line in reached(project)[before:] if line]
    checks.that(f"{service}: nothing of it arrived", not after, after)


def orphans(checks: Checks, client: Client) -> None:
    for _ in range(3):
        client.call("reader__orphan")
    eventually("no zombies", lambda: int(client.call("reader__zombies")) == 0)
    checks.that("processes whose parent is gone are asked for when they end", True)


def restarts(checks: Checks, project: Project, client: Client) -> None:
    """Calls that were begun are finished, whatever is replaced meanwhile."""
    for tool, server, parts in (("web__slow", "web", ["web-sidecar", "ingress", "ca"]), ("reader__slow", "reader", ["reader", "reader-egress"])):
        for part in parts:
            replaced(checks, project, client, tool, server, part)
    for part in ("web", "web-sidecar"):
        if part == "web":
            project.run("restart", "--timeout", "2", part)
        else:
            project.crash(project.container(part))
        eventually(f"web after {part}", lambda: client.call("web__get", url="http://allowed.test/") == "out: hello")
        checks.that(f"HTTP: everything is as before after {part} has restarted", True)
    project.run("restart", "web-net")
    eventually("the service is gone", lambda: not project.replicas("web"))
    checks.that("HTTP: with the namespace everything in it is gone", True)
    project.up("--force-recreate", "--no-deps", "web-net")
    project.up("--force-recreate", "--no-deps", "web-sidecar", "web")
    eventually("web in a new namespace", lambda: client.call("web__get", url="http://allowed.test/") == "out: hello")
    checks.that("HTTP: recreating the three brings it back", True)


def replaced(checks: Checks, project: Project, client: Client, tool: str, server: str, part: str) -> None:
    count, answers = 4, []

    def call() -> None:
        try:
            answers.append(client.call(tool, seconds=2))
        except Exception as error:  # noqa: BLE001
            answers.append(repr(error))

    begun = project.logs(server).count("begun")
    threads = [threading.Thread(target=call) for _ in range(count)]
    for thread in threads:
        thread.start()
    eventually("calls at work", lambda: project.logs(server).count("begun") >= begun + count)
    project.run("restart", "--timeout", "45", part)
    for thread in threads:
        thread.join()
    checks.that(f"{part} is replaced and calls at work are finished", answers == ["finished"] * count, answers)

    eventually(f"calls after {part}", lambda: client.call(tool, seconds=0) == "finished")
