"""Turns results.jsonl into tables: the median of the passes, and their range."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path

Row = dict
Column = tuple[str, Callable[[Row], float | None], int]

MIB = 1024 * 1024


def field(name: str, divisor: float = 1.0) -> Callable[[Row], float | None]:
    return lambda row: None if row.get(name) is None else row[name] / divisor


CALLS: list[Column] = [
    ("CPU us/request", field("cpu_us"), 1),
    ("requests/s", field("rps"), 0),
    ("CPU %", field("cpu_percent"), 0),
    ("p50 us", field("p50_us"), 0),
    ("p99 us", field("p99_us"), 0),
    ("RSS MiB", field("rss_kib", 1024), 1),
]
TABLES: dict[str, tuple[str, list[Column]]] = {
    "most": ("As many calls as possible, 64 connections", CALLS),
    "steady": ("1,000 calls per second, open loop", CALLS),
    "pairs": ("Each pairing of client and server through ingress and sidecar, 16 connections", CALLS),
    "pairs-steady": ("The same at 1,000 calls per second", CALLS),
    "handshakes": (
        "New mTLS connections, one call each",
        [
            ("CPU us/connection", field("cpu_us"), 0),
            ("connections/s", field("rps"), 0),
            ("p50 us", field("p50_us"), 0),
        ],
    ),
    "memory": (
        "Memory",
        [
            ("idle RSS MiB", field("rss_kib", 1024), 1),
            ("idle PSS MiB", field("pss_kib", 1024), 1),
            ("KiB/connection", field("kib_per_connection"), 1),
            ("idle CPU %", field("idle_cpu_percent"), 2),
        ],
    ),
    "tunnels": (
        "CONNECT tunnels by an allowlist of 1,000 names: open, one answer, close; 16 at once",
        [
            ("CPU us/tunnel", field("cpu_us"), 0),
            ("tunnels/s", field("rps"), 0),
            ("CPU %", field("cpu_percent"), 0),
            ("p50 us", field("p50_us"), 0),
            ("RSS MiB", field("rss_kib", 1024), 1),
        ],
    ),
    "denials": (
        "CONNECT to another name: 403",
        [
            ("CPU us/denial", field("cpu_us"), 0),
            ("denials/s", field("rps"), 0),
            ("CPU %", field("cpu_percent"), 0),
        ],
    ),
    "bulk": (
        "1 GiB out of one tunnel",
        [
            ("MiB/CPU second", field("mib_per_cpu_second"), 0),
            ("MiB/s", field("mib_per_second"), 0),
            ("RSS MiB", field("rss_kib", 1024), 1),
        ],
    ),
    "idle-tunnels": (
        "1,000 tunnels that rest",
        [
            ("RSS before, MiB", field("rss_kib", 1024), 1),
            ("KiB/tunnel", field("kib_per_connection"), 1),
        ],
    ),
    "start": (
        "From start to first answer",
        [
            ("CPU ms", field("cpu_ms"), 0),
            ("ms", field("first_answer_ms"), 0),
            ("RSS MiB", field("rss_kib", 1024), 1),
        ],
    ),
}

# What we promise of the sidecar: (table, column, at most).
BUDGETS = [
    ("most", "CPU us/request", 30.0),
    ("memory", "idle RSS MiB", 8.0),
    ("start", "CPU ms", 60.0),
]
BINARY_BUDGET_MIB = 12.0


def report(results: Path, sidecar: Path) -> str:
    rows = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()] if results.exists() else []
    parts = [table(name, rows) for name in TABLES if any(row["suite"] == name for row in rows)]
    return "\n\n".join([*parts, budgets(rows, sidecar)])


def table(name: str, rows: list[Row]) -> str:
    title, columns = TABLES[name]
    lines = [f"### {title}", "", "| | " + " | ".join(c[0] for c in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for peer in dict.fromkeys(row["peer"] for row in rows if row["suite"] == name):
        of_peer = [row for row in rows if (row["suite"], row["peer"]) == (name, peer)]
        lines.append(f"| {peer} | " + " | ".join(cell(of_peer, value, digits) for _, value, digits in columns) + " |")
    return "\n".join(lines)


def cell(rows: list[Row], value: Callable[[Row], float | None], digits: int) -> str:
    values = [v for v in map(value, rows) if v is not None]
    if not values:
        return "-"
    middle = f"{statistics.median(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def budgets(rows: list[Row], sidecar: Path) -> str:
    lines = ["### Budgets of the sidecar", "", "| | measured | at most | |", "|---|---|---|---|"]
    for name, column, most in BUDGETS:
        value = next(v for title, v, _ in TABLES[name][1] if title == column)
        ours = [row for row in rows if (row["suite"], row["peer"]) == (name, "outrigger-sidecar")]
        measured = [v for v in map(value, ours) if v is not None]
        if measured:
            lines.append(budget_line(f"{TABLES[name][0]}: {column}", statistics.median(measured), most))
    if sidecar.exists():
        lines.append(budget_line("binary, MiB", sidecar.stat().st_size / MIB, BINARY_BUDGET_MIB))
    return "\n".join(lines)


def budget_line(name: str, measured: float, most: float) -> str:
    return f"| {name} | {measured:.1f} | {most:.0f} | {'ok' if measured <= most else 'OVER'} |"
