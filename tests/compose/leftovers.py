"""What runs that were killed have left behind: it stands in the way of the next one, whose network has the same addresses.

A run puts its process id into all names and labels. What belongs to a run that still goes on is let alone.
"""

from __future__ import annotations

import re
from pathlib import Path

from images import docker

PROJECT = re.compile(r"outrigger-ci-[a-z]+-(\d+)")
# What compose says of everything it makes.
COMPOSE = "com.docker.compose.project"
# What containers have that are made without compose: the process id.
LABEL = "outrigger-ci"


def sweep() -> list[str]:
    """Removes it, and says whose it was."""
    gone = set()
    for label, pid in ((COMPOSE, project_pid), (LABEL, int_or_none)):
        # Containers first: they use the other two.
        for kind, lists, remove in (
            ("container", ["ls", "--all"], ["rm", "--force", "--volumes"]),
            ("network", ["ls"], ["rm"]),
            ("volume", ["ls"], ["rm", "--force"]),
        ):
            name = "{{.Name}}" if kind == "volume" else "{{.ID}}"
            for line in docker(kind, *lists, "--filter", f"label={label}", "--format", f'{name} {{{{.Label "{label}"}}}}').splitlines():
                one, _, whose = line.partition(" ")
                if pid(whose) is not None and not goes_on(pid(whose)):
                    docker(kind, *remove, one)
                    gone.add(whose)
    return sorted(gone)


def project_pid(name: str) -> int | None:
    """Of the run whose project this is; of other projects, none."""
    found = PROJECT.fullmatch(name)
    return int(found[1]) if found else None


def int_or_none(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def goes_on(pid: int) -> bool:
    """Whether this process is a run: its number may be another's by now."""
    try:
        return b"run.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
