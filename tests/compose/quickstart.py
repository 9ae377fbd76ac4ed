"""compose/quickstart.yaml: from nothing to calls, certificates that rotate, replicas that come, go, crash and are replaced under load."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

from checks import Checks
from images import docker
from project import Client, Load, Project, eventually

SERVICES = {"fs": "listDir", "time": "get_current_time", "vector": "search"}
GONE = "a sidecar that had registered is gone"
# Of ours, each container that a caller's request goes through, and what replaces it.
PARTS = ["ca", "ingress", "time", "vector-sidecar"]
# The most memory of a sidecar that has nothing to do.
IDLE = 8 << 20


def run(checks: Checks) -> None:
    # Certificates of twenty seconds: they are renewed all the time.
    with checks.project("quick", "compose/quickstart.yaml", CERTIFICATE_LIFE="20s") as project:
        begun = time.monotonic()
        project.up()
        client = project.client()
        checks.that("the first call", "welcome" not in client.call("fs__listDir"))
        print(f"     from `up` to the first call: {time.monotonic() - begun:.1f} s", flush=True)
        every_service(checks, project, client)
        checks.official_clients(client)
        containers(checks, project)
        memory(checks, project)
        rotation(checks, project, client)
        replicas(checks, project, client)
        replacing(checks, project, client)


def every_service(checks: Checks, project: Project, client: Client) -> None:
    offered = eventually("three services", lambda: (tools := client.tools()) and all(any(t.startswith(s + "__") for t in tools) for s in SERVICES) and tools)
    for service, tool in SERVICES.items():
        checks.that(f"{service} is listed", f"{service}__{tool}" in offered, offered)
    checks.that("time answers", "UTC" in client.call("time__get_current_time", timezone="UTC"))
    client.call("vector__addDocument", id="a", text="an outrigger keeps a canoe upright")
    checks.that("vector answers", "outrigger" in client.call("vector__search", query="canoe"))
    try:
        Client(client.find, "not-the-token-of-anybody", client.url).tools()
        checks.that("a caller without the token is refused", False)
    except Exception as error:  # noqa: BLE001
        checks.that("a caller without the token is refused", "401" in str(error), error)


def containers(checks: Checks, project: Project) -> None:
    """What the containers of ours may do."""
    for service in ["ca", "ingress", "fs", "time", "vector-sidecar"]:
        said = json.loads(docker("inspect", project.container(service)))[0]
        host = said["HostConfig"]
        checks.that(f"{service} is nobody, with a file system to read", host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"] and said["Config"]["User"] == "1337:1337")
    shell = subprocess.run(["docker", "exec", project.container("ingress"), "sh", "-c", "true"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    checks.that("there is no shell in the ingress", shell.returncode != 0, shell.stdout)


def memory(checks: Checks, project: Project) -> None:
    """What a sidecar beside an HTTP server has for itself: not the pages of its program, which the kernel may drop."""
    pid = docker("inspect", "--format", "{{.State.Pid}}", project.container("vector-sidecar"))
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    own = int(fields["RssAnon"].split()[0]) << 10
    print(f"     a sidecar without calls has {own / (1 << 20):.1f} MiB, and {int(fields['RssFile'].split()[0]) / 1024:.1f} MiB of its program in memory", flush=True)
    checks.that("a sidecar without calls has less than 8 MiB of its own", own < IDLE, own)


def rotation(checks: Checks, project: Project, client: Client) -> None:
    def renewed() -> float:
        name = 'outrigger_certificate_renewals_total{outcome="renewed"}'
        return min(project.metric("ingress", 9090, name), project.metric("vector-net", 15020, name), project.metric("fs", 15020, name))

    with Load(lambda: client.call("vector__search", query="canoe")) as load:
        eventually("three certificates of each", lambda: renewed() >= 3)
    checks.that("certificates rotate under load", not load.lost and load.done > 10, load.lost[:3])


def replicas(checks: Checks, project: Project, client: Client) -> None:
    with Load(lambda: client.call("fs__listDir")) as load:
        project.up("--scale", "fs=3", "--no-recreate")
        eventually("three replicas", lambda: len(project.replicas("fs")) == 3)
        checks.that("--scale fs=3 gives three replicas", True)
        gone = project.logs("ingress").count(GONE)
        begun = time.monotonic()
        project.crash(project.containers("fs")[1])
        # The engine starts it again at once: what is looked for is that the ingress has heard, not that there are fewer.
        eventually("the ingress hears of it", lambda: project.logs("ingress").count(GONE) > gone)
        print(f"     a crash was noticed after {time.monotonic() - begun:.1f} s", flush=True)
        eventually("the engine starts it again", lambda: len(project.replicas("fs")) == 3)
        # What was in the killed container is lost. When each caller has gone on, all of that has been told; from here on nothing is lost.
        done = load.done
        eventually("callers go on", lambda: load.done > done + 5 * len(load.threads))
        load.lost.clear()
        for one in project.containers("fs"):
            docker("restart", "--time", "45", one)
            eventually("it is back", lambda: len(project.replicas("fs")) == 3)
        project.up("--scale", "fs=1", "--no-recreate")
        eventually("one replica", lambda: len(project.replicas("fs")) == 1)
    checks.that("replacing replicas one by one, and taking two away, loses no call", not load.lost and not load.put_off, (load.put_off, load.lost[:3]))


def replacing(checks: Checks, project: Project, client: Client) -> None:
    """Each part once: what was begun is finished, what cannot be begun is refused, and everything comes back."""
    for part in PARTS:
        tool = "time__get_current_time" if part == "time" else "vector__search"
        arguments = {"timezone": "UTC"} if part == "time" else {"query": "canoe"}
        with Load(lambda: client.call(tool, **arguments)) as load:
            eventually("calls", lambda: load.done > 5)
            project.run("restart", "--timeout", "45", part)
            again = load.done
            eventually(f"calls go on after {part} was replaced", lambda: load.done > again + 5)
        checks.that(f"replacing {part} loses no call that was begun", not load.lost, load.lost[:3])
