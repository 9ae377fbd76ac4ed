"""What each process holds: memory, descriptors, threads, tasks, and what its gauges count."""

from __future__ import annotations

import os
from dataclasses import dataclass

import census
from bed import SESSIONS, Bed
from world import HTTP, STDIO, metrics

MEGABYTE = 1024 * 1024
# Entries of tables, by the gauges that count them.
GAUGES = (
    "outrigger_in_flight",
    "outrigger_connections_open",
    "outrigger_sessions_open",
    "outrigger_listens_open",
    "outrigger_listens_failing",
    "outrigger_parked_calls",
    "outrigger_approvals_waiting",
    "outrigger_egress_open",
    "outrigger_tasks",
)
# More than before by which it is still the same: connections that are kept come and go, and each has tasks.
SPARE = {"descriptors": 8, "threads": 4, "connections_open": 4, "tasks": 12}
# Of memory a tenth more, and this: what an allocator keeps.
SPARE_BYTES = 8 * MEGABYTE


@dataclass(frozen=True)
class Stock:
    """One process at one moment."""

    pid: int
    held: dict[str, float]


def take(bed: Bed) -> dict[str, Stock]:
    """Every process of the mesh, by name."""
    ours = {member.name: (member.pid, member.admin) for member in (bed.front, bed.out, bed.kept)}
    parts = {name: (bed.part(name), bed.admin(name)) for name in (STDIO, HTTP, SESSIONS, "ingress")}
    return {name: stock(*where) for name, where in {**ours, **parts}.items()}


def stock(pid: int, admin: str) -> Stock:
    held = census.holding(pid)
    threads = len(os.listdir(f"/proc/{pid}/task"))
    series = metrics(admin)
    counted = {name.removeprefix("outrigger_"): 0.0 for name in GAUGES}
    for (name, labels), value in series.items():
        # Who asks for the metrics is no part of what is counted.
        if name in GAUGES and "admin" not in labels:
            counted[name.removeprefix("outrigger_")] += value
    return Stock(pid, {"rss": held.rss, "descriptors": held.descriptors, "threads": threads, **counted})


def excess(before: dict[str, Stock], now: dict[str, Stock]) -> list[str]:
    """What there is more of than there was."""
    found = []
    for name, old in before.items():
        for what, was in old.held.items():
            value = now[name].held[what]
            most = was * 1.1 + SPARE_BYTES if what == "rss" else was + SPARE.get(what, 0)
            if value > most:
                found.append(f"{name}: {what} {written(what, value)}, was {written(what, was)}")
    return found


def table(moments: dict[str, dict[str, Stock]]) -> str:
    """Markdown: a line for each process and thing, a column for each moment. What is always 0 is left out."""
    columns = list(moments)
    lines = [["process", "", *columns], ["---", "---", *["---:"] * len(columns)]]
    for name, first in next(iter(moments.values())).items():
        for what in first.held:
            values = [taken[name].held[what] for taken in moments.values()]
            if any(values):
                lines.append([name, what, *(written(what, value) for value in values)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def written(what: str, value: float) -> str:
    return f"{value / MEGABYTE:.1f} MiB" if what == "rss" else f"{value:.0f}"
