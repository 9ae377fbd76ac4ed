"""Draws results as SVG: what a request costs each peer, and how near each target is. Stdlib only."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from html import escape

import targets
from results import Document, Row, field, of, values

WIDTH = 880
LABELS = 350
BARS = 400
ROW = 24
# A ratio that is drawn to the end of its bar's room: of measured over target, or the inverse where more is better.
FULL = 1.6

STYLE = """
    :root { --ink: #1f2328; --soft: #59636e; --line: #8c959f; --ours: #0969da; --theirs: #afb8c1; --good: #1a7f37; --bad: #bc4c00; }
    @media (prefers-color-scheme: dark) {
      :root { --ink: #e6edf3; --soft: #9198a1; --line: #656c76; --ours: #58a6ff; --theirs: #484f58; --good: #3fb950; --bad: #f0883e; }
    }
    text { fill: var(--ink); font-size: 13px; }
    .head { font-weight: 600; font-size: 15px; }
    .soft { fill: var(--soft); font-size: 12px; }
    .ours { fill: var(--ours); }
    .theirs { fill: var(--theirs); }
    .good { fill: var(--good); }
    .bad { fill: var(--bad); }
    .line { stroke: var(--ink); stroke-width: 1.5; }
    .stretch { stroke: var(--line); stroke-width: 1.5; stroke-dasharray: 3 3; }
"""


@dataclass(frozen=True)
class Bar:
    label: str
    # Of the room for bars.
    share: float
    kind: str
    text: str
    # Where the target lies, and what would be better still.
    line: float | None = None
    stretch: float | None = None


def draw(document: Document) -> str:
    rows = document["rows"]
    panels = [
        ("CPU per request beside a server, µs: mTLS, as many as possible", costs(rows, "most")),
        ("The same at 1,000 requests per second, µs", costs(rows, "steady")),
        ("Targets: measured over target; left of the line is reached, dashed is the stretch", reached(rows)),
    ]
    parts, top = [], 20
    for title, bars in panels:
        if bars:
            parts.append(f'<text class="head" x="10" y="{top + 12}">{escape(title)}</text>')
            parts += [bar(each, top + 26 + number * ROW) for number, each in enumerate(bars)]
            top += 26 + len(bars) * ROW + 24
    about = document["about"]
    said = f"{about['date']}, commit {about['commit']}, medians of {about['passes']}, {about['machine']['cpu']}."
    parts.append(f'<text class="soft" x="10" y="{top + 4}">{escape(said)}</text>')
    body = "\n  ".join(parts)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top + 20}" role="img" aria-labelledby="title desc"
     font-family="system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif">
  <title id="title">What a request costs, beside the peers</title>
  <desc id="desc">{escape(described(panels))}</desc>
  <style>{STYLE}  </style>
  {body}
</svg>
"""


def costs(rows: list[Row], suite: str) -> list[Bar]:
    """Everything that stands beside a server, the cheapest first."""
    beside = dict.fromkeys(r["peer"] for r in rows if r["suite"] == suite and not r["peer"].startswith(("direct", "ingress")))
    found = {peer: values(of(rows, suite, peer), field("cpu_us")) for peer in beside}
    medians = sorted((statistics.median(v), peer) for peer, v in found.items() if v)
    most = max((cost for cost, _ in medians), default=1.0)
    return [Bar(peer, cost / most, "ours" if peer == targets.SIDECAR else "theirs", f"{cost:.1f}") for cost, peer in medians]


def reached(rows: list[Row]) -> list[Bar]:
    found = []
    for each in targets.TARGETS:
        ratios, limit = each.ratios(rows), each.target or each.stretch
        if not ratios or not limit:
            continue
        ratio = statistics.median(ratios)
        nearness = limit / ratio if each.at_least else ratio / limit
        better = None
        if each.target and each.stretch:
            better = (limit / each.stretch if each.at_least else each.stretch / limit) / FULL
        text = f"{ratio:.{targets.digits(each)}f} of {targets.limit(each, limit)}"
        kind = "good" if each.met(ratio, limit) else "bad"
        label = f"{each.figure} / {each.theirs.split(' mcp_router')[0]}".replace("`", "")
        found.append(Bar(label, nearness / FULL, kind, text, 1 / FULL, better))
    return found


def bar(each: Bar, top: int) -> str:
    width = round(max(1.0, min(each.share, 1.0) * BARS), 1)
    parts = [
        f'<text x="{LABELS - 8}" y="{top + 13}" text-anchor="end">{escape(shortened(each.label))}</text>',
        f'<rect class="{each.kind}" x="{LABELS}" y="{top + 2}" width="{width}" height="{ROW - 8}" rx="2"/>',
    ]
    for kind, at in (("line", each.line), ("stretch", each.stretch)):
        if at is not None:
            x = round(LABELS + at * BARS, 1)
            parts.append(f'<line class="{kind}" x1="{x}" y1="{top}" x2="{x}" y2="{top + ROW - 4}"/>')
    # Behind the bar, or behind the line where that is further.
    end = round(LABELS + max(width, (each.line or 0) * BARS) + 8, 1)
    parts.append(f'<text class="soft" x="{end}" y="{top + 13}">{escape(each.text)}</text>')
    return "\n  ".join(parts)


def shortened(label: str) -> str:
    """What fits into the room for labels."""
    return label if len(label) <= 50 else f"{label[:49]}…"


def described(panels: list[tuple[str, list[Bar]]]) -> str:
    """The picture in words, for those who do not see it."""
    return " ".join(f"{title}: {', '.join(f'{each.label} {each.text}' for each in bars)}." for title, bars in panels if bars)
