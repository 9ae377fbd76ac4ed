"""Tables of the scale benchmark."""

from __future__ import annotations

# Title, member, and how it is written.
GROWTH = [
    ("CPU until all is listed, ms", "listed_cpu_ms", "{:,.0f}"),
    ("ready after, s", "ready_s", "{:.2f}"),
    ("memory (RSS), MiB", "rss_mib", "{:,.0f}"),
    ("CPU at rest, %", "idle_cpu_percent", "{:.2f}"),
    ("one catalog changes, CPU ms", "change_cpu_ms", "{:.1f}"),
    ("... and a client lists it, CPU ms", "change_listed_cpu_ms", "{:.1f}"),
    ("... which was told after, ms", "change_told_ms", "{:.0f}"),
    ("the whole list, MiB", "list_mib", "{:.1f}"),
    ("... the first time, CPU ms", "list_first_cpu_ms", "{:,.0f}"),
    ("... again, CPU ms per MiB", "list_cpu_ms_per_mib", "{:.2f}"),
    ("memory with lists, MiB", "listed_rss_mib", "{:,.0f}"),
    ("a call of one service, CPU us, saturated", "one_most_cpu_us", "{:.1f}"),
    ("... at 1,000/s", "one_steady_cpu_us", "{:.1f}"),
    ("calls of all in turn, CPU us, saturated", "all_most_cpu_us", "{:.1f}"),
    ("... at 1,000/s", "all_steady_cpu_us", "{:.1f}"),
]
STREAMS = [
    ("clients that listen", "streams", "{:,}"),
    ("KiB each", "kib_each", "{:.1f}"),
    ("CPU to open one, us", "open_cpu_us", "{:.0f}"),
    ("CPU at rest, %", "idle_cpu_percent", "{:.1f}"),
    ("a change told to all, CPU us each", "told_cpu_us", "{:.1f}"),
    ("... the last one after, ms", "told_ms", "{:,.0f}"),
    ("memory, MiB", "rss_mib", "{:,.0f}"),
    ("memory when they are gone, MiB", "rss_after_mib", "{:,.0f}"),
]
CALLS = [
    ("calls at once", "calls", "{:,}"),
    ("KiB each", "kib_each", "{:.1f}"),
    ("CPU to answer one, us", "answer_cpu_us", "{:.0f}"),
    ("CPU while they wait, %", "idle_cpu_percent", "{:.1f}"),
    ("all answered after, s", "answered_s", "{:.2f}"),
    ("memory, MiB", "rss_mib", "{:,.0f}"),
    ("memory when they are done, MiB", "rss_after_mib", "{:,.0f}"),
]
# A call's cost must not depend on the number of services: 1,000 against 10.
BUDGET = 1.05


def report(rows: list[dict]) -> str:
    """Markdown: costs by the number of services, then of very many clients."""
    growth = [row for row in rows if row["suite"] == "scale"]
    parts = []
    if growth:
        header = ["services", *(f"{row['services']:,}" for row in growth)]
        body = [[title, *(form.format(row[member]) for row in growth)] for title, member, form in GROWTH]
        parts.append(table(header, body))
        parts.append(ratios({row["services"]: row for row in growth}))
    for suite, columns in {"scale-streams": STREAMS, "scale-calls": CALLS}.items():
        found = [row for row in rows if row["suite"] == suite]
        if found:
            body = [[title, *(form.format(row[member]) for row in found)] for title, member, form in columns]
            parts.append(table(body[0], body[1:]))
    return "\n".join(filter(None, parts))


def ratios(by_size: dict[int, dict]) -> str:
    """How a call's cost depends on the number of services."""
    if not {10, 1000} <= by_size.keys():
        return ""
    few, many = by_size[10], by_size[1000]
    lines = []
    for what, member in {"saturated": "one_most_cpu_us", "at 1,000/s": "one_steady_cpu_us"}.items():
        ratio = many[member] / few[member]
        verdict = "within" if ratio <= BUDGET else "OVER"
        lines.append(f"a call with 1,000 services against 10, {what}: {ratio:.2f} x, {verdict} {BUDGET} x\n")
    return "".join(lines)


def table(header: list[str], body: list[list[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
