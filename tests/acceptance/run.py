#!/usr/bin/env python3
"""Official MCP clients through a whole mesh, compared with the same servers reached directly.

    run.py --start target/debug/outrigger --subjects target/subjects       starts servers and mesh itself
    run.py --up-json .outrigger/up.json --subjects DIR --service everything [--service modern]

Runs {Python, Node} x {legacy, auto} against each service directly (the control), at a sidecar of its own without an
ingress, at `/s/<service>/mcp`, and at the merged `/mcp` under the prefix `<service>__`. Every check that passes directly must pass through the mesh. A control
that fails is a failure too: it would hide what the mesh does. Last line: `N passed, M failed`.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from mesh import Mesh, NotReady, Processes, Subjects, free_port, start_mesh
from sidecar import Authority, start_sidecar

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RUN_SECONDS = 300
CHECK = re.compile(r"^(ok  |FAIL) (.*?)(?:  -- (.*))?$")

# Checks of things that 2026-07-28 does not have: a client that speaks a legacy revision to the server directly
# negotiates the modern one with the mesh, and then leaves them out.
LEGACY_ONLY = {"ping", "subscription: server-initiated notification", "logging notifications"}

# (service, client, mode, check): why the mesh may fail it. Empty is the goal; every entry needs a reason.
EXPECTED: dict[tuple[str, str, str, str], str] = {
    ("everything-http", client, "auto", "roots round trip"): (
        "the server asks outside any call, on the stream of its session: a client of 2026-07-28 cannot be asked there"
    )
    for client in ("python", "node")
}


@dataclass(frozen=True)
class Subject:
    """A server under test: how the mesh runs it, and how the control is started or reached."""

    profile: str
    # Over HTTP: argv and environment for a port. A control without it talks stdio.
    http: list[str] = field(default_factory=list)
    port_env: str = ""
    stdio: list[str] = field(default_factory=list)
    # Where its endpoint is; a path that ends in /sse is HTTP+SSE, the transport of 2024-11-05.
    path: str = "/mcp"
    # Also reached by clients over HTTP+SSE.
    over_sse: bool = False


def known_subjects(subjects: Subjects) -> dict[str, Subject]:
    modern = [subjects.python, str(HERE / "modern_server.py")]
    return {
        # Speaks 2025-11-25 over every transport; the mesh starts it as a stdio child.
        "everything": Subject(
            "everything",
            http=["mcp-server-everything", "streamableHttp"],
            port_env="PORT",
            stdio=["mcp-server-everything", "stdio"],
            over_sse=True,
        ),
        # The same over Streamable HTTP: a sidecar that is reached directly relays sessions of its revision.
        "everything-http": Subject("everything", http=["mcp-server-everything", "streamableHttp"], port_env="PORT"),
        # The same over HTTP+SSE; clients reach it directly that way too.
        "everything-sse": Subject("everything", http=["mcp-server-everything", "sse"], port_env="PORT", path="/sse"),
        # Speaks 2026-07-28 and the legacy revisions; the mesh reaches a running copy by URL.
        "modern": Subject("everything", http=[*modern, "{port}"]),
        # The same code over HTTP+SSE, where it speaks 2025-11-25.
        "python-sse": Subject("everything", http=[*modern, "{port}", "sse"], path="/sse"),
        # A small stdio server from PyPI.
        "time": Subject("generic", stdio=["mcp-server-time"]),
    }


@dataclass(frozen=True)
class Case:
    """One run of one client. `group` runs in order: its members share one server process."""

    service: str
    client: str
    mode: str
    where: str
    env: dict[str, str]
    stdio: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str, str, str]:
        return (self.service, self.client, self.mode, self.where)

    @property
    def group(self) -> tuple[str, str]:
        return (self.service, self.where if self.where in ("direct", "sidecar") else "mesh")


@dataclass
class Outcome:
    revision: str = "?"
    passed: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    text: str = ""

    @classmethod
    def parse(cls, text: str) -> Outcome:
        out = cls(text=text)
        for line in text.splitlines():
            if not (match := CHECK.match(line)):
                continue
            verdict, name, note = match.groups()
            if name == "connect and negotiate" and (found := re.search(r"revision (\S+),", note or "")):
                out.revision = found.group(1)
            if verdict == "ok  ":
                out.passed.add(name)
            else:
                out.failed[name] = note or ""
        return out


def cases_for(
    service: str, subject: Subject, direct: dict[str, str], alone: dict[str, str] | None, mesh: Mesh
) -> list[Case]:
    """The control, a sidecar alone and both endpoints of the mesh, for every client and mode."""
    inside = mesh.credentials()
    # Subjects share tool names and URIs on purpose: names get the service's prefix, URIs that several claim its scheme.
    merged_names = {"MESH_TOOL_PREFIX": f"{service}__", "MESH_URI_PREFIX": f"{service}+"}
    places = [
        ("direct", direct, () if direct else tuple(subject.stdio)),
        *([("sidecar", alone, ())] if alone else []),
        ("service", {**inside, "MESH_INGRESS_URL": mesh.service(service)}, ()),
        ("merged", {**inside, "MESH_INGRESS_URL": mesh.merged, **merged_names}, ()),
    ]
    if subject.over_sse:
        places.append(("sse", {**inside, "MESH_INGRESS_URL": mesh.service(service).removesuffix("/mcp") + "/sse"}, ()))
    old = subject.path == "/sse"
    if old:
        # How the transport of a server differs is the business of its sidecar: the other places show nothing new.
        places = [place for place in places if place[0] in ("direct", "service")]
    if service == "everything-http":
        places = [place for place in places if place[0] in ("direct", "sidecar")]
    return [
        Case(service, client, mode, where, {**env, "MESH_MODE": mode, "MESH_PROFILE": subject.profile}, stdio)
        for where, env, stdio in places
        for client in ("python", "node")
        # Over HTTP+SSE there is no modern revision to try first.
        for mode in (("legacy",) if old or where == "sse" else ("legacy", "auto"))
    ]


def run_case(case: Case, subjects: Subjects, logs: Path) -> Outcome:
    argv = {
        "python": [subjects.python, str(HERE / "mesh_client.py")],
        # ES modules find their packages next to the file that imports them.
        "node": [subjects.node, str(subjects.root / "npm" / "mesh_client.mjs")],
    }[case.client]
    if case.stdio:
        argv += ["--", *case.stdio]
    try:
        done = subprocess.run(
            argv, env={**subjects.environment(), **case.env}, capture_output=True, text=True, timeout=RUN_SECONDS
        )
        text = done.stdout + done.stderr
    except subprocess.TimeoutExpired as late:
        text = f"{(late.stdout or b'').decode(errors='replace')}\nFAIL run  -- not done after {RUN_SECONDS} s"
    (logs / f"client-{case.service}-{case.client}-{case.mode}-{case.where}.log").write_text(text, encoding="utf-8")
    outcome = Outcome.parse(text)
    if not outcome.passed and not outcome.failed:
        outcome.failed["run"] = text.strip().splitlines()[-1][:300] if text.strip() else "the client printed nothing"
    return outcome


def run_all(cases: list[Case], subjects: Subjects, logs: Path) -> dict[tuple[str, str, str, str], Outcome]:
    """Groups side by side, members of a group one after the other."""
    groups: dict[tuple[str, str], list[Case]] = {}
    for case in cases:
        groups.setdefault(case.group, []).append(case)
    with ThreadPoolExecutor(max_workers=4) as pool:
        done = pool.map(lambda group: [(case, run_case(case, subjects, logs)) for case in group], groups.values())
        return {case.key: outcome for pairs in done for case, outcome in pairs}


def lost_checks(case: Case, control: Outcome, outcome: Outcome) -> dict[str, str]:
    """What a run gets wrong, with a note: all its failures for a control, what the control passes for the mesh."""
    if case.where == "direct":
        return outcome.failed
    wanted = set(control.passed)
    if outcome.revision >= "2026" > control.revision:
        wanted -= LEGACY_ONLY
    # A check that fails directly as well is reported there.
    lost = {name: note for name, note in outcome.failed.items() if name not in control.failed}
    lost.update({name: "not run" for name in wanted - outcome.passed - set(outcome.failed)})
    return {n: note for n, note in lost.items() if (case.service, case.client, case.mode, n) not in EXPECTED}


def report(cases: list[Case], outcomes: dict[tuple[str, str, str, str], Outcome]) -> int:
    passed = failed = 0
    print(f"\n{'service':<16}{'client':<8}{'mode':<8}{'where':<9}{'revision':<12}passed  lost")
    for case in cases:
        outcome = outcomes[case.key]
        lost = lost_checks(case, outcomes[(case.service, case.client, case.mode, "direct")], outcome)
        passed += len(outcome.passed)
        failed += len(lost)
        print(
            f"{case.service:<16}{case.client:<8}{case.mode:<8}{case.where:<9}{outcome.revision:<12}"
            f"{len(outcome.passed):>6}  {len(lost):>4}"
        )
        for name, note in lost.items():
            print(f"    lost: {name}  -- {note}")
    for (service, client, mode, name), reason in EXPECTED.items():
        print(f"expected: {service} {client} {mode}: {name}: {reason}")
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


def start_http(processes: Processes, label: str, subject: Subject) -> int:
    """Starts a copy of a subject that speaks HTTP; returns its port."""
    port = free_port()
    argv = [part.replace("{port}", str(port)) for part in subject.http]
    processes.serve(label, argv, port, {subject.port_env: str(port)} if subject.port_env else {})
    return port


def manifest(processes: Processes, known: dict[str, Subject], names: list[str]) -> dict:
    """A mesh of the named subjects: stdio servers are started by their sidecars, others run and are reached by URL."""
    services = {}
    for name in names:
        if known[name].stdio:
            services[name] = {"command": known[name].stdio}
        else:
            port = start_http(processes, f"behind-{name}", known[name])
            services[name] = {"url": f"http://127.0.0.1:{port}{known[name].path}"}
    return {"mesh": "acceptance", "ingress": {"listen": "127.0.0.1:0", "http_sse": True}, "services": services}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--start", metavar="OUTRIGGER", help="start a mesh with this binary")
    source.add_argument("--up-json", type=Path, help="use the running mesh that this file describes")
    parser.add_argument("--subjects", type=Path, default=ROOT / "target" / "subjects")
    parser.add_argument("--service", action="append", help="such as everything, modern or time; default: all")
    parser.add_argument("--dir", type=Path, default=ROOT / "target" / "acceptance", help="logs and state")
    args = parser.parse_args()

    subjects = Subjects(args.subjects.resolve())
    known = known_subjects(subjects)
    names = args.service or list(known)
    if unknown := set(names) - set(known):
        parser.error(f"no such service: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    try:
        subjects.check()
        shutil.copy(HERE / "mesh_client.mjs", subjects.root / "npm" / "mesh_client.mjs")
        with Processes(args.dir.resolve(), subjects.environment()) as processes:
            ports = {n: start_http(processes, f"direct-{n}", known[n]) for n in names if known[n].http}
            if args.start:
                wanted = manifest(processes, known, names)
                mesh = start_mesh(processes, args.start, wanted, processes.logs / "state", names)
            else:
                mesh = Mesh.load(args.up_json)
            cases, alone = [], {}
            if args.start:
                authority = Authority(args.start, processes.logs / "authority")
                for name in names:
                    server = wanted["services"][name]
                    server = {"command": server["command"]} if "command" in server else {"upstream": server["url"]}
                    alone[name] = start_sidecar(processes, args.start, authority, name, server)
            for name in names:
                direct = {"MESH_INGRESS_URL": f"http://127.0.0.1:{ports[name]}{known[name].path}"} if name in ports else {}
                cases += cases_for(name, known[name], direct, alone.get(name), mesh)
            return report(cases, run_all(cases, subjects, processes.logs))
    except NotReady as problem:
        print(problem, file=sys.stderr)
        print("0 passed, 1 failed")
        return 1


if __name__ == "__main__":
    sys.exit(main())
