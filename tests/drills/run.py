#!/usr/bin/env python3
"""Fault drills: a whole mesh under a steady load, one thing broken, and what must hold nevertheless.

    run.py --start target/debug/outrigger --subjects target/subjects [--drill 4] [--drill 13] [--seconds 30]

Each drill has a mesh of its own. docs/TESTING.md has the list and the rules. Last line: `N passed, M failed`.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
import traceback
from pathlib import Path

import certificates
import edge
import enrolment
import files
import processes
import servers
from judge import Verdict
from world import NotReady, Subjects

ROOT = Path(__file__).resolve().parents[2]

DRILLS = {
    1: ("the server dies in mid-stream", servers.killed_in_mid_stream),
    2: ("a stdio child dies, ten times", servers.killed_child),
    4: ("a sidecar dies", processes.killed_sidecar),
    5: ("one of two ingresses dies", processes.killed_ingress),
    6: ("slow servers", servers.slow),
    7: ("slow readers", edge.slow_readers),
    8: ("half-open connections", edge.half_open),
    10: ("certificates expire", certificates.expiry),
    11: ("rotation, and another authority", certificates.rotation),
    12: ("members that renew over the network", enrolment.renewals),
    13: ("SIGTERM", processes.sigterm),
    14: ("descriptors run out", edge.exhaustion),
    17: ("broken files", files.broken),
    20: ("a storm of restarts", processes.storm),
}


def run(number: int, binary: str, subjects: Subjects, root: Path, seconds: float) -> bool:
    title, drill = DRILLS[number]
    verdict, began = Verdict(), time.monotonic()
    shutil.rmtree(root, ignore_errors=True)
    try:
        drill(binary, subjects, root, seconds, verdict)
    except NotReady as problem:
        verdict.wrong.append(str(problem))
    except Exception:  # noqa: BLE001 - a drill that breaks is a drill that failed
        verdict.wrong.append(traceback.format_exc())
    passed = not verdict.wrong
    print(f"{'ok  ' if passed else 'FAIL'} {number:>2} {title}  ({time.monotonic() - began:.0f} s)", flush=True)
    for note in verdict.notes:
        print(f"        {note}")
    for wrong in verdict.wrong:
        print(f"     ** {wrong}", flush=True)
    return passed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", metavar="OUTRIGGER", required=True, help="the binary under test")
    parser.add_argument("--subjects", type=Path, default=ROOT / "target" / "subjects")
    parser.add_argument("--drill", type=int, action="append", help="a number; default: all")
    parser.add_argument("--seconds", type=float, default=8, help="how long a fault is under load")
    parser.add_argument("--dir", type=Path, default=ROOT / "target" / "drills", help="logs and state")
    args = parser.parse_args()
    wanted = args.drill or list(DRILLS)
    if unknown := set(wanted) - set(DRILLS):
        parser.error(f"no such drill: {sorted(unknown)}; there are {', '.join(map(str, DRILLS))}")
    subjects = Subjects(args.subjects.resolve())
    try:
        subjects.check()
    except NotReady as problem:
        print(problem, file=sys.stderr)
        print("0 passed, 1 failed")
        return 1
    binary = str(Path(args.start).resolve())
    results = [run(n, binary, subjects, args.dir.resolve() / str(n), args.seconds) for n in wanted]
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
