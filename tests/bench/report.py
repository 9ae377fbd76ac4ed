"""Turns results.json into Markdown: what ran, targets, tables. As a command, `report.py results.json [--write]`."""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

import picture
import targets
from results import Document, Row, Value, field, load, of, spread, values

Column = tuple[str, Value, int]

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "PERFORMANCE.md"
PICTURE = DOCS / "images" / "performance.svg"
IMAGE = f"![What a request costs beside the peers, and how near each target is]({PICTURE.relative_to(DOCS)})"
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"


def share(first: int, last: int | None) -> Value:
    """CPU time of some of the processes; nothing where there is only one."""

    def value(row: Row) -> float | None:
        each = row.get("cpu_us_each") or []
        return sum(each[first:last]) if len(each) > 1 else None

    return value


CALLS: list[Column] = [
    ("CPU us/request", field("cpu_us"), 1),
    ("requests/s", field("rps"), 0),
    ("CPU %", field("cpu_percent"), 0),
    ("p50 us", field("p50_us"), 0),
    ("p90 us", field("p90_us"), 0),
    ("p99 us", field("p99_us"), 0),
    ("p99.9 us", field("p999_us"), 0),
    ("RSS MiB", field("rss_kib", 1024), 1),
]
ROUTED: list[Column] = [
    ("CPU us/request", field("cpu_us"), 1),
    ("of it the ingress", share(0, 1), 1),
    ("the sidecars", share(1, None), 1),
    *CALLS[1:],
]
EVENTS: list[Column] = [
    ("CPU us/event", field("cpu_us"), 2),
    ("events/s", field("rps"), 0),
    ("CPU %", field("cpu_percent"), 0),
    ("RSS after, MiB", field("rss_kib", 1024), 1),
]
TABLES: dict[str, tuple[str, list[Column]]] = {
    "most": ("As many calls as possible, 64 connections", CALLS),
    "steady": ("1,000 calls per second, open loop", CALLS),
    "busy": ("70 % of what each can do at most, open loop", CALLS),
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
            ("KiB/connection at 1,000", field("kib_per_connection"), 1),
            ("at 5,000", field("kib_per_connection_at_last"), 1),
            ("RSS with 5,000, MiB", field("rss_at_last_kib", 1024), 0),
            ("idle CPU %", field("idle_cpu_percent"), 2),
        ],
    ),
    "sse-paced": ("Server-sent events: 100 streams, 100 events/s each", EVENTS),
    "sse-flood": ("Server-sent events: 100 streams, as fast as they are read", EVENTS),
    "router-call": ("Ten servers of 50 tools behind one address: `tools/call`, as many as possible", ROUTED),
    "router-steady": ("The same at 1,000 calls per second", ROUTED),
    "router-list": ("The merged `tools/list` of 500 tools, one client", ROUTED),
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
    "scale": (
        "A call through the ingress, by the number of its services",
        [
            ("services", field("services"), 0),
            ("CPU us/call, saturated", field("one_most_cpu_us"), 1),
            ("at 1,000/s", field("one_steady_cpu_us"), 1),
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
BINARY_BUDGET_MIB = 13.0


def report(document: Document) -> str:
    rows = document["rows"]
    parts = [*absent(document["about"]), *broken(document["about"]), what_ran(document["about"]), targets.table(rows)]
    parts += [table(name, rows) for name in TABLES if any(row["suite"] == name for row in rows)]
    return "\n\n".join([*parts, budgets(document)])


def absent(about: dict) -> list[str]:
    """Above everything else: a table without a peer looks like one that is whole."""
    lines = [f"- {name}: `{install}`" for name, install in about["missing"].items()]
    return ["\n".join(["**Not measured, because not installed:**", "", *lines])] if lines else []


def broken(about: dict) -> list[str]:
    """One line each: logs are beside the results."""
    lines = [f"- {problem.splitlines()[0][:200]}" for problem in about["broken"]]
    return ["\n".join(["**Broken in this run:**", "", *lines])] if lines else []


def what_ran(about: dict) -> str:
    machine = about["machine"]
    lines = [
        f"Measured on {about['date']} in {about['minutes']:.0f} minutes, medians of {about['passes']}, windows of "
        f"{about['seconds']:g} s, at commit `{about['commit']}`:",
        "",
        "```sh",
        about["command"],
        "```",
        "",
        f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']:.0f} GiB; {machine['system']}, Linux {machine['kernel']}. "
        f"Load average of the last minute at the end: {about['load_average']:.1f}; the run by itself is about 1.",
        *([] if machine["as_root"] else ["Not as root: priorities were not raised, which makes figures noisier."]),
        "",
        "| program | version | MiB |",
        "|---|---|---|",
        *(f"| {name} | {found['version']} | {found['mib']:.1f} |" for name, found in about["versions"].items()),
        "",
        *(f"- {line}" for line in about["method"]),
    ]
    return "\n".join(lines)


def table(name: str, rows: list[Row]) -> str:
    title, columns = TABLES[name]
    rows = [row for row in rows if row["suite"] == name]
    peers = dict.fromkeys((row["peer"], row.get("services")) for row in rows)
    kept = [column for column in columns if any(values(rows, column[1]))]
    lines = [f"### {title}", "", "| | " + " | ".join(c[0] for c in kept) + " |", "|---" * (len(kept) + 1) + "|"]
    for peer, services in peers:
        of_peer = [row for row in rows if (row["peer"], row.get("services")) == (peer, services)]
        cells = [spread(values(of_peer, value), digits) for _, value, digits in kept]
        lines.append(f"| {peer} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def budgets(document: Document) -> str:
    lines = ["### Budgets of the sidecar", "", "| | measured | at most | |", "|---|---|---|---|"]
    for name, column, most in BUDGETS:
        value = next(v for title, v, _ in TABLES[name][1] if title == column)
        measured = values(of(document["rows"], name, "outrigger-sidecar"), value)
        if measured:
            lines.append(budget_line(f"{TABLES[name][0]}: {column}", statistics.median(measured), most))
    if sidecar := document["about"]["versions"].get("outrigger-sidecar"):
        lines.append(budget_line("binary, MiB", sidecar["mib"], BINARY_BUDGET_MIB))
    return "\n".join(lines)


def budget_line(name: str, measured: float, most: float) -> str:
    return f"| {name} | {measured:.1f} | {most:.0f} | {'ok' if measured <= most else 'OVER'} |"


def write(document: Document) -> None:
    """Rewrites the part of the page that is generated, and its picture."""
    page = PAGE.read_text(encoding="utf-8")
    text = f"{IMAGE}\n\n{report(document)}"
    PAGE.write_text(between_marks(page, text), encoding="utf-8")
    PICTURE.write_text(picture.draw(document), encoding="utf-8")
    print(f"wrote {PAGE} and {PICTURE}")


def between_marks(page: str, text: str) -> str:
    before, found, rest = page.partition(BEGIN)
    _, also_found, after = rest.partition(END)
    if not (found and also_found):
        raise SystemExit(f"{PAGE} has no place for results: {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--write", action="store_true", help="docs/PERFORMANCE.md and its picture, too")
    args = parser.parse_args()
    document = load(args.results)
    print(report(document))
    if args.write:
        write(document)
    return 0


if __name__ == "__main__":
    sys.exit(main())
