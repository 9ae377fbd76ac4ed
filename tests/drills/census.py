"""What processes hold: descriptors, resident memory, CPU time. Linux only, from /proc."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Holding:
    """One process at one moment; `rss` in bytes, `cpu` in seconds since its start."""

    pid: int
    descriptors: int
    rss: int
    cpu: float


def arguments(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def stat(pid: int) -> list[str]:
    """The fields behind the name, from the state on; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := stat(int(entry.name))) and int(fields[1]) == parent:
            found.append(int(entry.name))
    return found


def tree(root: int) -> list[int]:
    """All descendants."""
    found = []
    for child in children(root):
        found += [child, *tree(child)]
    return found


def zombies(root: int) -> list[int]:
    return [pid for pid in tree(root) if (fields := stat(pid)) and fields[0] == "Z"]


def holding(pid: int) -> Holding | None:
    fields = stat(pid)
    try:
        descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return None
    if not fields:
        return None
    cpu = (int(fields[11]) + int(fields[12])) / TICKS
    return Holding(pid, descriptors, int(fields[21]) * PAGE, cpu)
