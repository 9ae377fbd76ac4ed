#!/usr/bin/env python3
"""Counts what the pure functions of a request cost, and compares with baseline.json.

Instructions are callgrind's, of one case run 2N times less those of N times: what is prepared cancels out. Allocations are
counted by the program itself. Neither depends on how busy the machine is. A case fails that costs more than 3 percent and
50 instructions more than its baseline, or allocates more.

    tests/counts/counts.py             compare
    tests/counts/counts.py --write     take what is counted now as the baseline
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BASELINE = HERE / "baseline.json"
TOLERANCE = 0.03
# Instructions: hash tables begin with random numbers, and a look-up meets more or fewer neighbours by them.
SLACK = 50
# Instructions of what is counted: many beside what varies while a case is prepared, which hash tables do to that, too.
ENOUGH = 40_000_000
ROUNDS = range(100, 20_000)


def build() -> pathlib.Path:
    subprocess.run(["cargo", "build", "--locked", "--release", "-q", "-p", "outrigger-counts"], cwd=ROOT, check=True)
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    return target / "release" / "outrigger-counts"


def valgrind() -> str:
    if not shutil.which("valgrind") and os.getuid() == 0 and shutil.which("apt-get"):
        print("installing valgrind", file=sys.stderr)
        subprocess.run(["apt-get", "update", "-qq"], check=False)
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", "valgrind"], check=True, stdout=sys.stderr)
    found = shutil.which("valgrind")
    if not found:
        sys.exit("instructions are counted by valgrind: apt-get install valgrind")
    return found


def collected(tool: str, program: pathlib.Path, case: str, rounds: int) -> int:
    command = [tool, "--tool=callgrind", "--callgrind-out-file=/dev/null", str(program), case, str(rounds)]
    # Nothing of the environment may make a difference.
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": os.environ["PATH"]})
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or not found:
        sys.exit(f"{case}: {done.stdout}{done.stderr}")
    return int(found[1])


def instructions(tool: str, program: pathlib.Path, case: str) -> float:
    def mean(rounds: int) -> float:
        once, twice = (collected(tool, program, case, times) for times in (rounds, 2 * rounds))
        return (twice - once) / rounds

    about = max(mean(ROUNDS.start), 1)
    return round(mean(min(max(int(ENOUGH / about), ROUNDS.start), ROUNDS.stop)), 1)


def count(program: pathlib.Path) -> dict:
    tool = valgrind()
    counted = json.loads(subprocess.run([program], check=True, capture_output=True, text=True).stdout)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        figures = pool.map(lambda case: instructions(tool, program, case), counted)
        for case, figure in zip(counted, figures):
            counted[case] = {"instructions": figure, **counted[case]}
    return counted


def complaints(case: str, now: dict, before: dict | None) -> list[str]:
    if before is None:
        return [f"{case}: has no baseline"]
    worse = []
    if now["instructions"] > before["instructions"] * (1 + TOLERANCE) + SLACK:
        worse.append(f"{case}: {now['instructions']:.0f} instructions, {before['instructions']:.0f} before")
    for what in ("allocations", "bytes"):
        if now[what] > before[what] * (1 + TOLERANCE) + 0.5:
            worse.append(f"{case}: {now[what]:.1f} {what} allocated, {before[what]:.1f} before")
    return worse


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="take what is counted now as the baseline")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    now = count(build())
    if options.write:
        BASELINE.write_text(json.dumps(now, indent=1) + "\n")
    before = json.loads(BASELINE.read_text())
    if options.json:
        print(json.dumps(now, indent=1))
    else:
        print(f"{'':52} {'instructions':>12} {'before':>10} {'allocations':>12} {'bytes':>9}")
        for case, figures in now.items():
            old = before.get(case, {}).get("instructions", 0)
            print(f"{case:52} {figures['instructions']:12.0f} {old:10.0f} {figures['allocations']:12.1f} {figures['bytes']:9.0f}")
    worse = [line for case, figures in now.items() for line in complaints(case, figures, before.get(case))]
    worse += [f"{case}: is in the baseline and no longer counted" for case in before.keys() - now.keys()]
    for line in worse:
        print(line, file=sys.stderr)
    if worse:
        print("find out why; if it is worth it, write the baseline anew: tests/counts/counts.py --write", file=sys.stderr)
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
