#!/usr/bin/env python3
"""The public MCP conformance suite through a whole mesh, compared with the same backend reached directly.

    matrix.py --start target/debug/outrigger                              starts backends and mesh itself
    matrix.py --base http://127.0.0.1:8080 --direct modern=http://127.0.0.1:4001/mcp --rows modern
                                                      a mesh that runs already, with one service named after each row

A row is one backend; the suite runs against it at every revision of the row, once directly and once at
`/s/<row>/mcp`, in the same run. The rows `client` and `client-bridge` are the suite's client mode: the official Python
client meets the suite's own servers, once directly and once through a mesh, of either era in the second row. Every check
that passes directly must pass through the mesh. What may differ is listed with its reason in expected.yaml, and an entry
there that no longer differs is a failure. Last line: `N passed, M failed`.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
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


MODERN = "2026-07-28"
ROWS = {
    "modern": Row((MODERN,), {"ERA": "modern"}),
    # A legacy reply may be one JSON document or a stream; the stream is the harder one to relay.
    "legacy": Row(LEGACY, {"ERA": "legacy", "ALWAYS_SSE": "1"}),
    "dual": Row((MODERN, *LEGACY), {"ERA": "dual"}),
    "bridge-up": Row((MODERN,), {"ERA": "legacy"}, control={"ERA": "dual"}),
    "bridge-down": Row(LEGACY, {"ERA": "modern"}, control={"ERA": "dual"}),
    "stdio-modern": Row((MODERN,), {"ERA": "modern"}, stdio=True),
    "stdio-legacy": Row(LEGACY, {"ERA": "legacy"}, stdio=True),
    "stdio-dual": Row((MODERN, *LEGACY), {"ERA": "dual"}, stdio=True),
    "stdio-bridge-up": Row((MODERN,), {"ERA": "legacy"}, control={"ERA": "dual"}, stdio=True),
    "stdio-bridge-down": Row(LEGACY, {"ERA": "modern"}, control={"ERA": "dual"}, stdio=True),
}
# The suite's client mode, by the era of the client that reaches the mesh; directly it is of the server's.
CLIENT_ROWS = {"client": lambda modern: "auto" if modern else "legacy",
               "client-bridge": lambda modern: "legacy" if modern else "auto"}
# The scenarios of the client mode. Those of OAuth are left out: no proxy logs in to a server.
CLIENT_SCENARIOS = {
    MODERN: ("tools_call", "request-metadata", "sep-2322-client-request-state", "http-standard-headers",
             "http-custom-headers", "http-invalid-tool-headers", "json-schema-ref-no-deref",
             "json-schema-2020-12-preservation"),
    "2025-11-25": ("initialize", "tools_call", "elicitation-sep1034-client-defaults", "sse-retry",
                   "json-schema-2020-12-preservation"),
    "2025-06-18": ("initialize", "tools_call"),
}
# Each scenario has a mesh of its own.
CLIENTS_AT_ONCE = 3
ALL = (*ROWS, *CLIENT_ROWS)


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


def run_suite(target: list[str], revision: str, folder: Path, log: Path, subjects: Subjects) -> None:
    """Runs the suite once; `target` is a URL, or `--client` and a command, and what else it is to be told."""
    with open(log, "w", encoding="utf-8") as out:
        # The exit status says "some check failed", which the comparison below judges.
        subprocess.run(
            [str(HERE / "run.sh"), *target, revision, "--out", str(folder)],
            env={**subjects.environment(), "OUTRIGGER_SUBJECTS": str(subjects.root)},
            stdout=out,
            stderr=subprocess.STDOUT,
            timeout=SUITE_SECONDS,
            check=False,
        )


def fresh(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def try_server(url: str, revision: str, folder: Path, subjects: Subjects) -> Results:
    run_suite([url], revision, fresh(folder), folder.with_suffix(".log"), subjects)
    return Results.read(folder)


def try_client(options: list[str], revision: str, folder: Path, subjects: Subjects) -> Results:
    """Each scenario of the client mode; `options` are those of client.py."""
    command = " ".join([subjects.python, str(HERE / "client.py"), "--logs", str(fresh(folder) / "logs"), *options])

    def scenario(name: str) -> None:
        target = ["--client", command, "--scenario", name]
        run_suite(target, revision, folder, folder / f"{name}.log", subjects)

    with ThreadPoolExecutor(CLIENTS_AT_ONCE) as pool:
        list(pool.map(scenario, CLIENT_SCENARIOS[revision]))
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
    print(f"{row:<18}{revision:<12}{reference:>7}{through:>7}{len(set(lost) & set(expected)):>10}{len(problems):>7}")
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


@dataclass(frozen=True, eq=False)
class World:
    """What the rows run against."""

    base: str
    direct: dict[str, str]
    binary: str
    logs: Path
    subjects: Subjects

    def run(self, name: str, revision: str) -> tuple[Results, Results]:
        """One row at one revision: directly, and through the mesh."""
        where = self.logs / "results" / name / revision
        if own_era := CLIENT_ROWS.get(name):
            options = ["--start", self.binary, "--era", own_era(revision >= MODERN)]
            return self.client(revision), try_client(options, revision, where / "mesh", self.subjects)
        direct = try_server(self.direct[name], revision, where / "direct", self.subjects)
        return direct, try_server(f"{self.base}/s/{name}/mcp", revision, where / "mesh", self.subjects)

    @cache
    def client(self, revision: str) -> Results:
        """The client by itself, with the suite's own servers."""
        return try_client([], revision, self.logs / "results" / "client-direct" / revision, self.subjects)


def run_rows(rows: list[str], world: World) -> int:
    expected = expected_differences()
    passed = failed = 0
    print(f"\n{'row':<18}{'revision':<12}{'direct':>7}{'mesh':>7}{'expected':>10}{'lost':>7}")
    for name in rows:
        for revision in CLIENT_SCENARIOS if name in CLIENT_ROWS else ROWS[name].revisions:
            direct, mesh = world.run(name, revision)
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
    parser.add_argument("--rows", default=",".join(ALL), help="default %(default)s")
    parser.add_argument("--subjects", type=Path, default=ROOT / "target" / "subjects")
    parser.add_argument("--dir", type=Path, default=ROOT / "target" / "conformance", help="logs and results")
    args = parser.parse_args()

    rows = args.rows.split(",")
    if unknown := set(rows) - set(ALL if args.start else ROWS):
        parser.error(f"no such row: {', '.join(sorted(unknown))}; the rows of clients need --start")
    servers = [name for name in rows if name in ROWS]
    subjects = Subjects(args.subjects.resolve())
    logs = args.dir.resolve()
    try:
        subjects.check()
        with Processes(logs, subjects.environment()) as processes:
            base, binary = "", ""
            direct = dict(pair.split("=", 1) for pair in args.direct)
            if args.base:
                base = args.base.rstrip("/")
            else:
                binary = str(Path(args.start).resolve())
                controls = {name: ROWS[name].control or ROWS[name].backend for name in servers}
                direct = {n: backend(processes, subjects, f"direct-{n}", env) for n, env in controls.items()}
                if servers:
                    base = mesh_of(processes, subjects, servers, binary, logs / "state")
            return run_rows(rows, World(base, direct, binary, logs, subjects))
    except NotReady as problem:
        print(problem, file=sys.stderr)
        print("0 passed, 1 failed")
        return 1


if __name__ == "__main__":
    sys.exit(main())
