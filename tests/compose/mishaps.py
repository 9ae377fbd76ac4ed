"""What people get wrong, and the line of the log that tells them."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager

from checks import Checks
from images import PREFIX, docker
from leftovers import LABEL
from project import eventually

BASE = {
    "OUTRIGGER_SERVICE": "fs", "OUTRIGGER_COMMAND": "/nowhere/server", "OUTRIGGER_TRUST_DOMAIN": "demo.outrigger.local",
    "OUTRIGGER_CA_URL": "https://127.0.0.1:1", "OUTRIGGER_JOIN_TOKEN": "orj_000000000000_x", "OUTRIGGER_CA_SHA256": "0" * 64,
}


@contextmanager
def container(*words: str, **environment: str):
    """A container of an image, by its id, until it is not needed."""
    variables = [word for item in environment.items() for word in ("--env", "=".join(item))]
    one = docker("run", "--detach", "--label", f"{LABEL}={os.getpid()}", *variables, *words)
    try:
        yield one
    finally:
        docker("rm", "--force", one)


def logs(one: str) -> str:
    return subprocess.run(["docker", "logs", one], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout


def says(checks: Checks, what: str, words: list[str], one: str) -> None:
    def line() -> str | None:
        return next((line for line in logs(one).splitlines() if all(word in line for word in words)), None)

    try:
        eventually(what, line, 30)
        # Said once and not at each of the many tries, but for what a server itself says: somebody has to find it.
        lines = [line for line in logs(one).splitlines() if all(word in line for word in words) and " INFO " not in line]
        checks.that(what, len(lines) == 1, "\n".join(lines))
    except Exception:  # noqa: BLE001
        checks.that(what, False, logs(one)[-1500:])


def run(checks: Checks) -> None:
    sidecar = PREFIX + "outrigger-sidecar"
    with container(sidecar, **BASE) as one:
        says(checks, "an authority that is not there is named with its address", ["waiting for the authority at https://127.0.0.1:1", "refused"], one)
    with container(sidecar, **{k: v for k, v in BASE.items() if k != "OUTRIGGER_JOIN_TOKEN"}, OUTRIGGER_JOIN_TOKEN_FILE="/run/outrigger/join-token") as one:
        says(checks, "a join token that is not there is named with its file", ["cannot read /run/outrigger/join-token"], one)
    with container(sidecar, **{k: v for k, v in BASE.items() if k != "OUTRIGGER_JOIN_TOKEN"}, OUTRIGGER_KUBERNETES_TOKEN_FILE="/var/run/secrets/outrigger/token") as one:
        says(checks, "a service-account token that is not there is named with its file", ["cannot read /var/run/secrets/outrigger/token"], one)
    with container(sidecar) as one:
        says(checks, "settings that are missing are named with their variables", ["OUTRIGGER_SERVICE"], one)
    with container("--user", "1000", "--cap-drop", "ALL", PREFIX + "outrigger-redirect") as one:
        says(checks, "redirection without the right says which", ["NET_ADMIN"], one)
    with container("--tmpfs", "/var/lib/outrigger:uid=1,mode=0700", PREFIX + "outrigger", "ca", "serve", OUTRIGGER_TRUST_DOMAIN="demo.local") as one:
        says(checks, "an authority that may not write says where", ["no authority can be made in .outrigger/ca", "ermission denied"], one)
    with checks.project("wrong", "compose/quickstart.yaml", "tests/compose/mishaps.yaml") as project:
        project.run("up", "--detach", "--no-build", "ca", "ingress", "fs", "time")
        for service, words in {
            "fs": ["it refuses (name_refused)", "spiffe://quickstart.outrigger.local/time"],
            "time": ["cannot start", "no-such-server"],
        }.items():
            says(checks, f"{service}: {' '.join(words)}", words, project.container(service))
