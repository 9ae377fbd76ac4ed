#!/usr/bin/env python3
"""A whole mesh under mixed load with faults, for long: at the end every process holds what it held at the beginning.

    run.py --start target/debug/outrigger [--minutes 30] [--json FILE]

First the mesh is warmed up by the same load, rests, and stock is taken; then load and faults; then it rests again, and once more after a
policy of many rules was rewritten all the time. Prints what each process held, and what those rules do to latency. Exit code 1
where something did not return. docs/TESTING.md says more.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

from bed import Bed, Subjects
from faults import Faults
import reloads
import stock
from traffic import Traffic
from world import NotReady, wait_for

ROOT = Path(__file__).resolve().parents[2]
# The last of what waits ends: idle connections and sessions, calls to what was killed, threads without work.
REST_SECONDS = 240


def soak(args: argparse.Namespace, bed: Bed) -> dict:
    print("warming up", flush=True)
    with Traffic(bed), Faults(bed) as faults:
        faults.ending.wait(args.warm_up)
    # What is gone by then is gone; memory that was needed once may be needed again.
    time.sleep(args.rest)
    before = stock.take(bed)
    moments = {"before": before}
    began, wrong = time.monotonic(), []
    with Traffic(bed) as traffic, Faults(bed) as faults:
        for part in range(1, 5):
            faults.ending.wait(max(0.0, began + args.minutes * 60 * part / 4 - time.monotonic()))
            print(f"{(time.monotonic() - began) / 60:.1f} min", flush=True)
            if part == 2:
                try:
                    moments["under load"] = stock.take(bed)
                except (NotReady, OSError):
                    # Something is just being started again.
                    pass
    wrong += traffic.faults
    moments["after"] = rested(bed, before)
    wrong += stock.excess(before, moments["after"])
    # Afterwards: what is read and thrown away here is more than all the rest.
    found = reloads.rewrite(bed, args.rules, args.reload_seconds)
    moments["after rules"] = rested(bed, before)
    wrong += [*found["wrong"], *(f"after rules, {text}" for text in stock.excess(before, moments["after rules"]))]
    taken = {when: {name: {"pid": one.pid, **one.held} for name, one in at.items()} for when, at in moments.items()}
    print()
    print(stock.table(moments))
    print(reloads.table(found))
    print(traffic.summary())
    print("faults: " + ", ".join(f"{name} x{count}" for name, count in sorted(faults.done.items())))
    return {"minutes": args.minutes, "stock": taken, "reloads": found, "wrong": wrong}


def rested(bed: Bed, before: dict) -> dict:
    """What each process holds once it holds no more than before, or the patience is over."""
    began = time.monotonic()
    wait_for(lambda: not left(bed, before), REST_SECONDS, 2)
    print(f"rested {time.monotonic() - began:.0f} s", flush=True)
    return stock.take(bed)


def left(bed: Bed, before: dict) -> list[str]:
    try:
        return stock.excess(before, stock.take(bed))
    except (NotReady, OSError, AttributeError):
        return ["a part is being started again"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", metavar="OUTRIGGER", required=True, help="the binary under test")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--warm-up", type=float, default=90, help="seconds")
    parser.add_argument("--rest", type=float, default=45, help="seconds before stock is taken for the first time")
    parser.add_argument("--rules", type=int, default=10000, help="of the policy that is rewritten")
    parser.add_argument("--reload-seconds", type=float, default=45, help="how long it rests, and is rewritten")
    parser.add_argument("--subjects", type=Path, default=ROOT / "target" / "subjects")
    parser.add_argument("--dir", type=Path, default=ROOT / "target" / "soak", help="logs and state")
    parser.add_argument("--json", type=Path, help="writes what was found there")
    args = parser.parse_args()
    subjects = Subjects(args.subjects.resolve())
    subjects.check()
    root = args.dir.resolve()
    shutil.rmtree(root, ignore_errors=True)
    with Bed(str(Path(args.start).resolve()), subjects, root) as bed:
        found = soak(args, bed)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for text in found["wrong"]:
        print(f"** {text}")
    print("everything returned" if not found["wrong"] else f"{len(found['wrong'])} things did not")
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
