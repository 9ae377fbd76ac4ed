#!/usr/bin/env python3
"""Writes sidecar/guide.profdata: what the programs do most, so that the compiler makes that fast (`release.sh`).

    tests/bench/guide.py                 builds programs that count, runs the suites of the benchmark with them, merges the counts

The profile knows functions by names that change with their crate's version and features. What it does not know is compiled as
without it; make it anew with each version of rustc and after dependencies changed, or when a call costs more than it did (`make bench`).
Then make `used.ld` anew, which says where functions lie: `tests/bench/used.py`.

It needs an `llvm-profdata` that reads what rustc's LLVM writes: from 19 on, `sudo apt-get install -y llvm-19`, or `LLVM_PROFDATA=path`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TARGET = (ROOT / os.environ.get("CARGO_TARGET_DIR", "target")).resolve()
GUIDE = ROOT / "sidecar" / "guide.profdata"
RUN = TARGET / "guide"
PROGRAMS = ("outrigger-sidecar", "outrigger-ingress")
# Suite, the peer that takes part in it, seconds of each window, and how much its counts weigh: a flood of events has a thousand times as
# many of them as handshakes, and would make all else look rare.
SUITES = (
    ("calls", "outrigger-sidecar", 2, 4),
    ("handshakes", "outrigger-sidecar", 2, 4),
    ("sse", "outrigger-sidecar", 0.5, 1),
    ("egress", "outrigger-sidecar", 2, 2),
    ("start", "outrigger-sidecar", 1, 1),
    ("pairs", "ingress + sidecar", 1, 1),
    ("chain", "ingress + sidecar", 2, 2),
    ("router", "ingress + 10 sidecars", 2, 2),
)
# Counters of a function that is kept although it never ran, so that the compiler makes it small. Shorter ones would be three fifths of the
# file for a few bytes of program.
LONG = 15
# The first that reads what rustc's LLVM writes.
OLDEST_LLVM = 19


def merger() -> str:
    found = os.environ.get("LLVM_PROFDATA") or next(filter(None, map(shutil.which, ("llvm-profdata-19", "llvm-profdata"))), None)
    if not found:
        raise SystemExit("no llvm-profdata: sudo apt-get install -y llvm-19, or LLVM_PROFDATA=path")
    # Before the minutes of a build that an older one could not read.
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"version (\d+)", said)
    if not version or int(version[1]) < OLDEST_LLVM:
        raise SystemExit(f"{found} is too old: sudo apt-get install -y llvm-{OLDEST_LLVM}, or LLVM_PROFDATA=path")
    return found


def build() -> Path:
    """Programs that count how often each of their branches is taken."""
    version = subprocess.run(["rustc", "-vV"], check=True, capture_output=True, text=True).stdout
    target = next(line.split()[1] for line in version.splitlines() if line.startswith("host:"))
    env = os.environ | {"RUSTFLAGS": f"-C profile-generate={RUN / 'default'}", "CARGO_TARGET_DIR": str(RUN / "build")}
    # One at a time, as `release.sh` does: names of functions depend on the features of their crates.
    for program in PROGRAMS:
        command = ["cargo", "build", "--locked", "--release", "--target", target, "--package", program]
        subprocess.run(command, cwd=ROOT, env=env, check=True)
    return RUN / "build" / target / "release"


def worth(function: str) -> bool:
    """Whether a function of the text form is kept: its name, its hash, how many counters it has, and each of them."""
    _, mark, rest = function.partition("# Num Counters:\n")
    if not mark:
        return True
    number, _, values = rest.partition("\n# Counter Values:\n")
    return int(number) >= LONG or any(value != "0" for value in values.split("\n")[: int(number)])


def main() -> int:
    merge = [merger(), "merge", "-o"]
    binaries = build()
    tools = TARGET / "bench-tools"
    manifest = HERE / "tools" / "Cargo.toml"
    subprocess.run(["cargo", "build", "--locked", "--release", "--manifest-path", manifest, "--target-dir", tools], check=True)
    weighted = []
    for suite, peer, seconds, weight in SUITES:
        counts = RUN / suite
        shutil.rmtree(counts, ignore_errors=True)
        print(f"{suite}: {peer}", file=sys.stderr)
        bench = [sys.executable, HERE / "bench.py", "--bin", binaries, "--tools", tools / "release", "--dir", RUN / "run"]
        chosen = ["--peers", peer, "--suites", suite, "--runs", 1, "--seconds", seconds]
        # Each process writes a file of its own when it ends.
        env = os.environ | {"LLVM_PROFILE_FILE": str(counts / "%m_%p.profraw"), "PYTHONDONTWRITEBYTECODE": "1"}
        subprocess.run([*map(str, bench), *map(str, chosen)], env=env, check=True, stdout=sys.stderr)
        subprocess.run([*merge, RUN / f"{suite}.profdata", counts], check=True)
        weighted.append(f"-weighted-input={weight},{RUN / f'{suite}.profdata'}")
    whole = RUN / "whole.txt"
    subprocess.run([*merge, whole, "-text", *weighted], check=True)
    # What kind of profile it is stands before the first function.
    kind, mark, functions = whole.read_text(encoding="utf-8").partition(":ir\n")
    if not mark:
        raise SystemExit(f"{whole} is no profile of the compiler's intermediate code")
    whole.write_text(kind + mark + "\n\n".join(filter(worth, functions.split("\n\n"))), encoding="utf-8")
    subprocess.run([*merge, GUIDE, whole], check=True)
    print(f"{GUIDE}: {GUIDE.stat().st_size >> 10} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
