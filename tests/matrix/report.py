"""What the matrix found: the verdict on the terminal, and docs/COMPATIBILITY.md."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import yaml

from checks import FEATURES
from pairs import REVISIONS, Outcome, PairResult

HERE = Path(__file__).resolve().parent
REGENERATE = "make matrix-doc"
KINDS = ("works", "lossy", "impossible", "absent", "known", "failed")
HEAD = f"""# Compatibility

<!-- Written by `{REGENERATE}` from what tests/matrix found. Do not edit by hand. -->

Which client works with which server through the mesh, and what is lost on the way. The tables are the result of a test
([TESTING.md](TESTING.md#matrix-any-client-with-any-server)): clients of every revision of MCP call servers of every revision,
over every transport, through an ingress and a sidecar, and try every feature that the two have in common.

| in the tables | means |
|---|---|
| yes | works, and nothing is lost |
| loss *n* | works, with the loss that note *n* explains; a revision that lacks something cannot show it |
| no *n* | impossible by the specification, refused in good order; note *n* says why |
| bug *n* | does not work yet, though it could |
| | the client's or the server's revision has no such feature |

Each client has the server for itself here. Callers share the one process of a stdio server of 2026-07-28, and a log message
that such a server writes while several calls are at work does not say whose it is: it is dropped.
"""


SDKS = """
## Clients that others wrote

Releases of the official SDKs, each with every service above and every feature of its API. They find what the tables say,
but for what the fourth column names.

| client | speaks | over | differs in | not tried |
|---|---|---|---|---|"""
# What a cell says of the way in, where ways differ.
VIA = {"http": "", "merged": " at `/mcp`", "connect": " by `connect`", "sse": " at `/sse`", "sidecar": " without an ingress"}


@dataclass(frozen=True)
class Known:
    """A failure with a known reason, from expected.yaml."""

    feature: str
    clients: tuple[str, ...]
    servers: tuple[str, ...]
    transports: tuple[str, ...]
    ways: tuple[str, ...]
    reason: str
    unsteady: bool = False

    def covers(self, result: PairResult, feature: str) -> bool:
        checks = [(self.clients, result.client), (self.servers, result.server.revision),
                  (self.transports, result.server.transport), (self.ways, result.via)]
        return feature == self.feature and all(not wanted or value in wanted for wanted, value in checks)


def known_failures() -> tuple[list[Known], dict[str, str]]:
    """The known failures of features, and sins (a piece of the text) with their reasons."""
    document = yaml.load((HERE / "expected.yaml").read_text(encoding="utf-8"), Loader=yaml.BaseLoader) or {}
    lists = [{k: tuple(e.get(k, ())) for k in ("clients", "servers", "transports", "ways")} for e in document.get("features") or []]
    features = [
        Known(feature=e["feature"], reason=e["reason"], unsteady=e.get("unsteady") == "true", **more)
        for e, more in zip(document.get("features") or [], lists)
    ]
    return features, {e["saw"]: e["reason"] for e in document.get("sins") or []}


def judge(results: list[PairResult], sins: list[str], page: Path | None, write: bool) -> int:
    """Prints what was found and what is wrong with it. `page` is compared, or written; without it only a part ran."""
    known, excused = known_failures()
    used: Counter = Counter()
    problems: list[str] = []
    for result in results:
        for feature, outcome in result.features.items():
            entry = next((k for k in known if k.covers(result, feature)), None)
            if outcome.kind == "failed" and entry:
                used[entry] += 1
                result.features[feature] = Outcome("known", entry.reason)
            elif outcome.kind == "failed":
                problems.append(f"{result.name}: {feature}: {outcome.why}")
            elif entry and entry.unsteady:
                result.features[feature] = Outcome("known", entry.reason)
            elif entry and outcome.kind != "absent":
                problems.append(f"{result.name}: {feature}: listed in expected.yaml, but it is {outcome.kind}")
        sins = sins + [f"client {result.name}: {s}" for s in result.sins]
    for sin in sins:
        if piece := next((p for p in excused if p in sin), None):
            used[piece] += 1
        else:
            problems.append(f"against the revision: {sin}")
    if page:
        problems += [f"expected.yaml: {e} does not happen" for e in [*known, *excused] if not used[e] and e not in
                     [k for k in known if k.unsteady]]
        problems += compare(page, document(results), write)
    return tell(results, problems)


def tell(results: list[PairResult], problems: list[str]) -> int:
    width = max((len(r.name) for r in results), default=0)
    print(f"\n{'client / endpoint : service':<{width}}" + "".join(f"{k:>12}" for k in KINDS))
    totals: Counter = Counter()
    for result in results:
        counts = Counter(o.kind for o in result.features.values())
        totals += counts
        print(f"{result.name:<{width}}" + "".join(f"{counts[k]:>12}" for k in KINDS))
    for problem in problems:
        print(f"    wrong: {problem[:600]}")
    passed = sum(totals[k] for k in ("works", "lossy", "impossible"))
    print(f"{passed} passed, {len(problems)} failed")
    return 1 if problems or not passed else 0


def compare(page: Path, text: str, write: bool) -> list[str]:
    if write:
        page.write_text(text, encoding="utf-8")
        return []
    if page.exists() and page.read_text(encoding="utf-8") == text:
        return []
    return [f"docs/{page.name} differs from what was found; `{REGENERATE}` writes it anew"]


class Notes:
    """Reasons, numbered as they come."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def cell(self, outcome: Outcome) -> str:
        word = {"works": "yes", "absent": "", "lossy": "loss", "impossible": "no", "known": "bug", "failed": "FAILED"}
        if outcome.kind in ("works", "absent"):
            return word[outcome.kind]
        return f"{word[outcome.kind]} {self.numbers.setdefault(outcome.why, len(self.numbers) + 1)}"


def document(results: list[PairResult]) -> str:
    """The page: one table for each server revision, features by client revision."""
    notes, parts = Notes(), [HEAD]
    for revision in REVISIONS:
        here = [r for r in results if r.server.revision == revision and r.sdk is None]
        transports = list(dict.fromkeys(r.server.transport for r in here))
        parts.append(f"\n## Servers of {revision}\n\nOver {' and '.join(transports)}. Columns are clients.\n")
        parts.append("| | " + " | ".join(REVISIONS) + " |\n" + "|---" * (len(REVISIONS) + 1) + "|")
        for feature in FEATURES:
            cells = [cell(notes, [r for r in here if r.client == c], feature.name) for c in REVISIONS]
            if any(cells):
                parts.append(f"| {feature.name} | " + " | ".join(cells) + " |")
    parts.append(SDKS)
    for sdk in dict.fromkeys(r.sdk for r in results if r.sdk):
        mine = [r for r in results if r.sdk == sdk]
        through = "stdio, `outrigger connect`" if sdk.over_connect else "HTTP+SSE" if sdk.over_sse else "Streamable HTTP"
        differ = dict.fromkeys(n for r in mine for n, o in r.features.items() if sdk_differs(results, r, n, o))
        parts.append(f"| {sdk.name} | {sdk.revision} | {through} | {', '.join(differ)} | {', '.join(sorted(sdk.skips))} |")
    parts.append("\n## Notes\n")
    parts += [f"{number}. {reason[0].upper()}{reason[1:]}." for reason, number in notes.numbers.items()]
    return "\n".join(parts) + "\n"


def sdk_differs(results: list[PairResult], mine: PairResult, feature: str, outcome: Outcome) -> bool:
    """Whether an SDK gets something else than the raw client of its revision, which the tables show."""
    raw = next(r for r in results if r.server is mine.server and r.client == mine.client and r.via == "http")
    return raw.features[feature].kind != outcome.kind


def cell(notes: Notes, results: list[PairResult], feature: str) -> str:
    """One cell; transports are named where they differ."""
    by_text: dict[str, list[str]] = {}
    for result in results:
        text = notes.cell(result.features[feature])
        by_text.setdefault(text, []).append(result.server.transport + VIA[result.via])
    if len(by_text) <= 1:
        return next(iter(by_text), "")
    return "; ".join(f"{text or 'none'} ({', '.join(dict.fromkeys(where))})" for text, where in by_text.items())
