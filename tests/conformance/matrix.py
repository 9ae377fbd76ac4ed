#!/usr/bin/env python3
"""The public MCP conformance suite through a whole mesh, compared with the same backend reached directly.

    matrix.py --start target/debug/outrigger                              starts backends and mesh itself
    matrix.py --base http://127.0.0.1:8080 --direct modern=http://127.0.0.1:4001/mcp --rows modern
                                                      a mesh that runs already, with one service named after each row

A row is one backend; the suite runs against it at every revision of the row, once directly and once at
`/s/<row>/mcp`, in the same run. Every check that passes directly must pass through the mesh. What may differ is listed
with its reason in expected.yaml, and an entry there that no longer differs is a failure. Last line: `N passed, M failed`.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent / "acceptance"))

from mesh import NotReady, Processes, Subjects, free_port, start_mesh  # noqa: E402

SUITE_SECONDS = 300
# Lines of trouble per run on the terminal; the logs have the rest.
SHOWN = 25
LEGACY = ("2025-11-25", "2025-06-18", "2025-03-26")


@dataclass(frozen=True)
class Row:
    """One backend behind the mesh, and the revisions at which the suite tries it."""

    revisions: tuple[str, ...]
    backend: dict[str, str]
    # The control's environment where it differs: a bridge is compared with a backend that speaks the client's era.
    control: dict[str, str] = field(default_factory=dict)
    stdio: bool = False


ROWS = {
    "modern": Row(("2026-07-28",), {"ERA": "modern"}),
    # A legacy reply may be one JSON document or a stream; the stream is the harder one to relay.
    "legacy": Row(LEGACY, {"ERA": "legacy", "ALWAYS_SSE": "1"}),
    "dual": Row(LEGACY, {"ERA": "dual", "ALWAYS_SSE": "1"}),
    "stdio": Row(("2026-07-28", "2025-11-25"), {"ERA": "dual"}, stdio=True),
    "bridge-up": Row(("2026-07-28",), {"ERA": "legacy"}, control={"ERA": "dual"}),
    "bridge-down": Row(LEGACY[:2], {"ERA": "modern"}, control={"ERA": "dual"}),
}
REQUIRED = list(ROWS)


@dataclass(frozen=True)
class Results:
    """Checks by `scenario/check-id`; a check may report more than once."""

    passed: Counter
    failed: dict[str, str]

    @classmethod
    def read(cls, folder: Path) -> Results:
        passed: Counter = Counter()
        failed: dict[str, str] = {}
        for file in sorted(folder.rglob("checks.json")):
            scenario = re.sub(r"-\d{4}-\d\d-\d\dT[\w-]+$", "", str(file.parent.relative_to(folder)))
            for check in json.loads(file.read_text(encoding="utf-8")):
                name = f"{scenario}/{check['id']}"
                if check["status"] == "SUCCESS":
                    passed[name] += 1
                elif check["status"] == "FAILURE":
                    failed[name] = str(check.get("errorMessage") or "")[:200]
        return cls(passed, failed)


def run_suite(url: str, revision: str, folder: Path, subjects: Subjects) -> Results:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with open(folder.with_suffix(".log"), "w", encoding="utf-8") as log:
        # The exit status says "some check failed", which the comparison below judges.
        subprocess.run(
            [str(HERE / "run.sh"), url, revision, "--out", str(folder)],
            env={**subjects.environment(), "OUTRIGGER_SUBJECTS": str(subjects.root)},
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=SUITE_SECONDS,
            check=False,
        )
    return Results.read(folder)


def differences(direct: Results, mesh: Results) -> dict[str, str]:
    """Checks that pass directly and not, or less often, through the mesh; and failures that only the mesh has."""
    lost = {name: mesh.failed.get(name, "did not report") for name in direct.passed - mesh.passed}
    lost.update({name: note for name, note in mesh.failed.items() if name not in direct.failed})
    return lost


def judge(row: str, revision: str, direct: Results, mesh: Results, expected: dict[str, str]) -> tuple[int, int]:
    """Prints one line and what is wrong under it; returns (passed, failed)."""
    lost = differences(direct, mesh)
    problems = {name: note for name, note in lost.items() if name not in expected}
    problems.update({name: "listed in expected.yaml, but does not differ" for name in set(expected) - set(lost)})
    if not direct.passed:
        problems["control"] = "nothing passed directly; see the log"
    through, reference = mesh.passed.total(), direct.passed.total()
    print(f"{row:<13}{revision:<12}{reference:>7}{through:>7}{len(set(lost) & set(expected)):>10}{len(problems):>7}")
    shown = sorted(problems.items())[:SHOWN]
    for name, note in shown:
        print(f"    lost: {name}  -- {note[:120]}")
    if len(problems) > len(shown):
        print(f"    and {len(problems) - len(shown)} more; see the logs")
    return through, len(problems)


def backend(processes: Processes, subjects: Subjects, name: str, env: dict[str, str]) -> str:
    """Starts a reference server; returns its URL."""
    port = free_port()
    processes.serve(name, [subjects.node, str(HERE / "backend.mjs")], port, {**env, "PORT": str(port)})
    return f"http://127.0.0.1:{port}/mcp"


def mesh_of(processes: Processes, subjects: Subjects, rows: list[str], binary: str, state: Path) -> str:
    """Starts the rows' backends and a mesh in front of them; returns the ingress base URL."""
    services: dict[str, dict] = {}
    for name in rows:
        row = ROWS[name]
        if row.stdio:
            services[name] = {"command": [subjects.node, str(HERE / "backend.mjs"), "--stdio"], "env": row.backend}
        else:
            services[name] = {"url": backend(processes, subjects, f"behind-{name}", row.backend)}
    # The suite presents no token.
    ingress = {"listen": "127.0.0.1:0", "anonymous": True}
    manifest = {"mesh": "conformance", "ingress": ingress, "services": services}
    return start_mesh(processes, binary, manifest, state, rows).merged.removesuffix("/mcp")


def expected_differences() -> dict[str, dict[str, dict[str, str]]]:
    """row -> revision -> check -> reason."""
    # The base loader keeps revisions as text; the usual one would read them as dates.
    document = yaml.load((HERE / "expected.yaml").read_text(encoding="utf-8"), Loader=yaml.BaseLoader) or {}
    return {
        row: {revision: {e["check"]: e["reason"] for e in entries} for revision, entries in revisions.items()}
        for row, revisions in document.items()
    }


def run_rows(rows: list[str], base: str, direct_urls: dict[str, str], logs: Path, subjects: Subjects) -> int:
    expected = expected_differences()
    passed = failed = 0
    print(f"\n{'row':<13}{'revision':<12}{'direct':>7}{'mesh':>7}{'expected':>10}{'lost':>7}")
    for name in rows:
        for revision in ROWS[name].revisions:
            where = logs / "results" / name / revision
            direct = run_suite(direct_urls[name], revision, where / "direct", subjects)
            mesh = run_suite(f"{base}/s/{name}/mcp", revision, where / "mesh", subjects)
            p, f = judge(name, revision, direct, mesh, expected.get(name, {}).get(revision, {}))
            passed, failed = passed + p, failed + f
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--start", metavar="OUTRIGGER", help="start a mesh with this binary")
    source.add_argument("--base", metavar="URL", help="ingress of a running mesh, without a path")
    parser.add_argument("--direct", action="append", default=[], metavar="ROW=URL", help="with --base: its backends")
    parser.add_argument("--rows", default=",".join(REQUIRED), help=f"of {','.join(ROWS)}, or all; default %(default)s")
    parser.add_argument("--subjects", type=Path, default=ROOT / "target" / "subjects")
    parser.add_argument("--dir", type=Path, default=ROOT / "target" / "conformance", help="logs and results")
    args = parser.parse_args()

    rows = list(ROWS) if args.rows == "all" else args.rows.split(",")
    if unknown := set(rows) - set(ROWS):
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    subjects = Subjects(args.subjects.resolve())
    logs = args.dir.resolve()
    try:
        subjects.check()
        with Processes(logs, subjects.environment()) as processes:
            if args.start:
                controls = {name: ROWS[name].control or ROWS[name].backend for name in rows}
                direct = {n: backend(processes, subjects, f"direct-{n}", env) for n, env in controls.items()}
                base = mesh_of(processes, subjects, rows, args.start, logs / "state")
            else:
                direct = dict(pair.split("=", 1) for pair in args.direct)
                base = args.base.rstrip("/")
            return run_rows(rows, base, direct, logs, subjects)
    except NotReady as problem:
        print(problem, file=sys.stderr)
        print("0 passed, 1 failed")
        return 1


if __name__ == "__main__":
    sys.exit(main())
