"""What we want to be beside the peers, as ratios of figures of one run, and whether this run shows it. Stdlib only."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from results import Row, Value, field, of, spread, values

SIDECAR = "outrigger-sidecar"
ROUTER = "ingress + 10 sidecars"
ENVOY_ROUTER = "envoy mcp_router"
# Clients in sessions, which are what Envoy's router knows, and clients without, which it lets through.
SESSIONS = "2025-11-25"
NEWEST = "2026-07-28"


@dataclass(frozen=True)
class Target:
    """Ours over theirs, in each pass."""

    figure: str
    suite: str
    ours: str
    theirs: str
    value: Value
    # Of the ratio: what is promised, and what would be better still. Without one, the row only informs.
    target: float | None
    stretch: float | None
    # More is better.
    at_least: bool = False

    def ratios(self, rows: list[Row]) -> list[float]:
        """One for each pass in which both were measured."""
        theirs = {row.get("pass"): row for row in of(rows, self.suite, self.theirs)}
        pairs = [(row, theirs.get(row.get("pass"))) for row in of(rows, self.suite, self.ours)]
        both = [values([ours, other], self.value) for ours, other in pairs if other]
        return [pair[0] / pair[1] for pair in both if len(pair) == 2 and pair[1]]

    def met(self, ratio: float, limit: float | None) -> bool:
        return limit is not None and (ratio >= limit if self.at_least else ratio <= limit)

    def verdict(self, ratios: list[float]) -> str:
        """Of the median; where passes differ, in how many of them."""
        if not ratios:
            return "not measured"
        if self.target is None and self.stretch is None:
            return ""
        middle = statistics.median(ratios)
        if self.met(middle, self.stretch):
            return "**stretch**"
        limit = self.stretch if self.target is None else self.target
        passes = sum(self.met(ratio, limit) for ratio in ratios)
        word = "reached" if self.target is not None and self.met(middle, self.target) else "**missed**"
        return word if passes in (0, len(ratios)) else f"{word}, in {passes} of {len(ratios)} passes"


@dataclass(frozen=True)
class Scale(Target):
    """A call with many services over one with few."""

    few: int = 10
    many: int = 1000

    def ratios(self, rows: list[Row]) -> list[float]:
        scale = [row for row in rows if row["suite"] == "scale"]
        few, many = ([row for row in scale if row["services"] == count] for count in (self.few, self.many))
        return [more / less for less, more in zip(values(few, self.value), values(many, self.value)) if less]


CPU = field("cpu_us")


def ingress_alone(row: Row) -> float | None:
    """Of ours without its sidecars; of a peer, all that there is."""
    each = row.get("cpu_us_each") or []
    return each[0] if len(each) > 1 else row.get("cpu_us")


def sidecar(figure: str, suite: str, theirs: str, value: Value, target: float | None, stretch: float | None) -> Target:
    return Target(figure, suite, SIDECAR, theirs, value, target, stretch)


def router(figure: str, suite: str, revision: str, value: Value, target: float | None, stretch: float | None) -> Target:
    """For the same client."""
    return Target(figure, suite, f"{ROUTER}, {revision}", f"{ENVOY_ROUTER}, {revision}", value, target, stretch)


TARGETS: list[Target] = [
    sidecar("CPU per request, saturated", "most", "nginx", CPU, 1.1, 0.85),
    sidecar("CPU per request, saturated", "most", "envoy+mcp", CPU, 0.2, None),
    sidecar("CPU per request at 1,000/s", "steady", "haproxy", CPU, 1.0, None),
    sidecar("CPU per request at 1,000/s", "steady", "envoy+mcp", CPU, 0.35, None),
    sidecar("CPU per request at 1,000/s", "steady", "nginx", CPU, None, 1.0),
    sidecar("p99 at 1,000/s", "steady", "haproxy", field("p99_us"), 1.0, 0.8),
    sidecar("CPU per new mTLS connection", "handshakes", "envoy", CPU, 0.75, 0.6),
    sidecar("memory at start", "memory", "haproxy", field("rss_kib"), 0.4, 0.3),
    sidecar("memory per idle connection, of 1,000", "memory", "haproxy", field("kib_per_connection"), 1.0, 0.8),
    sidecar("memory per idle connection, of 5,000", "memory", "haproxy", field("kib_per_connection_at_last"), 1.0, 0.8),
    sidecar("CPU from start to first answer", "start", "nginx", field("cpu_ms"), 2.0, 1.0),
    sidecar("CPU per event, paced", "sse-paced", "haproxy", CPU, 1.0, 0.85),
    sidecar("CPU per event, flood", "sse-flood", "haproxy", CPU, 1.5, 1.0),
    sidecar("CPU per CONNECT tunnel", "tunnels", "squid", CPU, 0.85, 0.75),
    sidecar("CPU per refusal", "denials", "envoy", CPU, 0.5, 0.4),
    Target("bytes per CPU second", "bulk", SIDECAR, "envoy", field("mib_per_cpu_second"), 1.0, 1.2, at_least=True),
    router("ingress + sidecar: `tools/call`, 2025-11-25", "router-call", SESSIONS, CPU, 0.35, 0.2),
    router("ingress + sidecar: `tools/call`, 2026-07-28", "router-call", NEWEST, CPU, 0.35, 0.2),
    router("ingress alone: `tools/call`, 2025-11-25", "router-call", SESSIONS, ingress_alone, 0.35, 0.2),
    router("ingress alone: `tools/call`, 2026-07-28", "router-call", NEWEST, ingress_alone, 0.35, 0.2),
    router("ingress + sidecar: `tools/call` at 1,000/s", "router-steady", NEWEST, CPU, None, None),
    router("merged `tools/list`, 2025-11-25", "router-list", SESSIONS, CPU, 0.04, 0.015),
    router("merged `tools/list`, 2026-07-28", "router-list", NEWEST, CPU, 0.04, 0.015),
    Scale("ingress call, 1,000 services", "scale", "", "10 services", field("one_most_cpu_us"), 1.05, 1.0),
]


def table(rows: list[Row]) -> str:
    lines = [
        "### Targets",
        "",
        "Each is a ratio of two figures of the same pass: ours over theirs.",
        "",
        "| figure | over that of | target | stretch | measured | |",
        "|---|---|---|---|---|---|",
    ]
    for each in TARGETS:
        ratios = each.ratios(rows)
        cells = [each.figure, each.theirs, limit(each, each.target), limit(each, each.stretch), spread(ratios, digits(each))]
        lines.append(f"| {' | '.join([*cells, each.verdict(ratios)])} |")
    return "\n".join(lines)


def limit(target: Target, ratio: float | None) -> str:
    return "-" if ratio is None else f"{'>=' if target.at_least else '<='} {ratio:g}"


def digits(target: Target) -> int:
    """Small ratios need more of them."""
    return 3 if (target.target or 1.0) < 0.1 else 2
