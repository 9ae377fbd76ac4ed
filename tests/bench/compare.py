#!/usr/bin/env python3
"""Compares two runs: compare.py OLD/results.json NEW/results.json

Both on the same machine, of two commits. A virtual core changes its speed from day to day, so each figure of ours is also
given after what the peers, which are the same in both, changed meanwhile. Exit code 1 when one of ours is dearer by more
than the noise, and its ranges lie apart.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

from results import Document, Row, load, of, spread, values, field

# What is compared, and whether less is better. Latencies of one run are too noisy.
FIGURES = {
    "cpu_us": True,
    "cpu_ms": True,
    "rss_kib": True,
    "kib_per_connection": True,
    "kib_per_connection_at_last": True,
    "mib_per_cpu_second": False,
}
# Below this share two runs of the same program differ.
NOISE = 0.15
OURS = ("outrigger", "ingress", "2025-11-25", "2026-07-28")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("new", type=Path)
    args = parser.parse_args()
    text, dearer = compare(load(args.old), load(args.new))
    print(text)
    return 1 if dearer else 0


def compare(old: Document, new: Document) -> tuple[str, int]:
    """The table, and how many figures of ours are dearer."""
    drift = changed_meanwhile(old["rows"], new["rows"])
    lines = [f"old: {named(old)}", f"new: {named(new)}", f"the peers' CPU time: {drift:.2f} x", ""]
    lines += ["| | | old | new | new / old | less the peers' | |", "|---|---|---|---|---|---|---|"]
    dearer = 0
    for suite, peer, figure, before, after in both(old["rows"], new["rows"]):
        ratio = statistics.median(after) / statistics.median(before)
        # Memory does not depend on the speed of a core.
        own = ratio / drift if figure.startswith("cpu") else ratio * drift if figure.startswith("mib") else ratio
        word = verdict(figure, own, before, after)
        dearer += word == "DEARER" and ours(peer)
        digits = 1 if statistics.median(before) >= 10 else 3
        cells = [peer, f"{suite} {figure}", spread(before, digits), spread(after, digits), f"{ratio:.2f}", f"{own:.2f}", word]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines), dearer


def named(document: Document) -> str:
    about = document["about"]
    return f"{about['commit']}, {about['date']}, {about['machine']['cpu']}"


def verdict(figure: str, own: float, before: list[float], after: list[float]) -> str:
    apart = min(after) > max(before) or max(after) < min(before)
    if abs(own - 1) <= NOISE or not apart:
        return ""
    return "DEARER" if (own > 1) == FIGURES[figure] else "cheaper"


def ours(peer: str) -> bool:
    return peer.startswith(OURS)


def changed_meanwhile(old: list[Row], new: list[Row]) -> float:
    """By how much the same programs of others are dearer; 1 when there are none in both."""
    found = both(old, new)
    ratios = [statistics.median(b) / statistics.median(a) for _, peer, f, a, b in found if f == "cpu_us" and not ours(peer)]
    return statistics.median(ratios) if ratios else 1.0


def both(old: list[Row], new: list[Row]) -> list[tuple[str, str, str, list[float], list[float]]]:
    """What was measured in both: suite, peer, figure, and the passes of each."""
    found = []
    for suite, peer in dict.fromkeys((row["suite"], row["peer"]) for row in new):
        for figure in FIGURES:
            before, after = (values(of(rows, suite, peer), field(figure)) for rows in (old, new))
            if before and after and statistics.median(before):
                found.append((suite, peer, figure, before, after))
    return found


if __name__ == "__main__":
    sys.exit(main())
