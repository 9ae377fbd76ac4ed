#!/usr/bin/env python3
"""Writes sidecar/used.ld: which functions of the sidecar run, so that the linker puts them side by side.

    tests/bench/used.py                  builds, runs the sidecar under callgrind, writes the script

The kernel maps a program in pieces of 64 KiB around each page that is touched. With the functions that run scattered over all
of it, an idle sidecar has nearly the whole program in memory. What runs at each request comes first, then what runs at the
start or once for a connection.

Functions are named by patterns without the parts of their names that change with versions and targets, so the script outlives
most changes; what it does not know is only placed elsewhere. Make it anew when memory at the start has grown (`make bench`).
"""

from __future__ import annotations

import bisect
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import machine
from machine import LOAD_CPU, PROXY_CPU, Broken, Machine, Program
from peers import Peers, Ports

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TARGET = (ROOT / os.environ.get("CARGO_TARGET_DIR", "target")).resolve()
SCRIPT = ROOT / "sidecar" / "used.ld"
RUN = TARGET / "bench"
# Under callgrind everything takes fifty times longer.
machine.READY_SECONDS = 120
SECONDS = 10
# What ran so often in a run with requests, and twice as often as at the start, belongs to requests.
OFTEN = 300
LINE = re.compile(r"\s*([0-9a-f]+)\s+[0-9a-f]+\s+([0-9a-f]+)\s+\d+ {9}(\S.*)$")
COST = re.compile(r"(0x[0-9a-f]+|[+-]\d+|\*) \S+ (\d+)$")


def build(link_map: Path) -> Path:
    before = SCRIPT.read_text(encoding="utf-8")
    # In its default order: valgrind knows the text of a program by the name of its section.
    SCRIPT.write_text("SECTIONS {} INSERT BEFORE .text;\n", encoding="utf-8")
    env = os.environ | {"RUSTFLAGS": f"-C link-arg=-Wl,-Map={link_map}"}
    try:
        made = subprocess.run([ROOT / "release.sh", "outrigger-sidecar"], env=env, check=True, stdout=subprocess.PIPE, text=True)
    finally:
        SCRIPT.write_text(before, encoding="utf-8")
    return Path(made.stdout.strip())


def sections(link_map: Path) -> list[tuple[int, int, str]]:
    """Address, size and pattern of each piece of the program's text, by address."""
    found = []
    for line in link_map.read_text(encoding="utf-8", errors="replace").splitlines():
        if (match := LINE.match(line)) and ":(.text" in match[3] and int(match[2], 16):
            file, _, section = match[3].rpartition(":(")
            found.append((int(match[1], 16), int(match[2], 16), pattern(file, section.removesuffix(")"))))
    return sorted(found)


def pattern(file: str, section: str) -> str:
    if section == ".text":
        # Assembler has one section for each file; the number before its name is one of the build.
        return f"*{re.sub(r'^[0-9a-f]+', '', file.rpartition('(')[2].removesuffix(')'))}(.text)" if "(" in file else ""
    # Of the two ways to encode names the older ends with a hash; in the other, crates have numbers.
    return f"*({re.sub(r'Cs[0-9A-Za-z]+_', 'Cs*_', re.sub(r'17h[0-9a-f]{16}E', '17h*E', section))})"


def executed(profile: Path) -> dict[int, int]:
    """How often the instruction at each address of the program ran (callgrind's format, with its relative positions)."""
    names, here, position, of_call, counts = {}, False, 0, False, {}
    for line in profile.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"(c?ob)=\((\d+)\)(?: (.*))?$", line):
            if match[3]:
                names[match[2]] = match[3]
            if match[1] == "ob":
                here = names[match[2]].endswith("/outrigger-sidecar")
        elif line.startswith("calls="):
            of_call = True
        elif match := COST.match(line):
            step = match[1]
            position = position if step == "*" else position + int(step) if step[0] in "+-" else int(step, 16)
            if here and not of_call:
                counts[position] = counts.get(position, 0) + int(match[2])
            of_call = False
    return counts


def ran(profile: Path, text: list[tuple[int, int, str]]) -> dict[int, int]:
    """Pieces of text by their place in `text`, and how often their most frequent instruction ran."""
    starts = [start for start, _, _ in text]
    found: dict[int, int] = {}
    for address, count in executed(profile).items():
        place = bisect.bisect_right(starts, address) - 1
        if place >= 0 and address < text[place][0] + text[place][1]:
            found[place] = max(found.get(place, 0), count)
    return found


def profile(binaries: Path, name: str, with_requests: bool) -> Path:
    out = RUN / f"callgrind.{name}"
    peers = Peers(RUN, TARGET / "bench-tools" / "release", binaries, Ports())
    with Machine(peers.tools, RUN) as programs:
        programs.start("upstream", peers.upstream(), LOAD_CPU)
        plain = peers.sidecar()
        watched = ["valgrind", "--tool=callgrind", "--dump-instr=yes", f"--callgrind-out-file={out}", *plain.argv]
        sidecar = programs.start(name, Program(watched, plain.env, plain.port), PROXY_CPU)
        tls = ["--port", peers.ports.tls, "--certs", peers.certs]
        for _ in range(200):
            try:
                programs.load("idle", *tls, "--connections", 1, "--seconds", 0.01)
                break
            except Broken:
                time.sleep(0.5)
        if with_requests:
            programs.load("calls", *tls, "--seconds", SECONDS, "--connections", 4)
            programs.load("handshakes", *tls, "--seconds", SECONDS, "--connections", 2)
        programs.stop(sidecar)
    return out


def main() -> int:
    RUN.mkdir(parents=True, exist_ok=True)
    subprocess.run([HERE / "mkcerts.sh", RUN / "certs"], check=True)
    link_map = RUN / "sidecar.map"
    binaries = build(link_map)
    text = sections(link_map)
    start = ran(profile(binaries, "start", False), text)
    busy = ran(profile(binaries, "busy", True), text)
    of_requests = {place for place, count in busy.items() if count >= OFTEN and count > 2 * start.get(place, 0)}
    order = [*sorted(of_requests), *sorted((start.keys() | busy.keys()) - of_requests)]
    patterns = [p for p in dict.fromkeys(text[place][2] for place in order) if p]
    if not patterns:
        raise SystemExit(f"{link_map} has no functions that are known here: it must be a map of lld's")
    lines = "".join(f"    {p}\n" for p in patterns)
    SCRIPT.write_text(
        "/* Functions that run, side by side; see build.rs. Written by tests/bench/used.py, and not by hand. */\n"
        f"SECTIONS\n{{\n  .text.used :\n  {{\n{lines}  }}\n}}\nINSERT BEFORE .text;\n",
        encoding="utf-8",
    )
    size = sum(text[place][1] for place in order)
    print(f"{len(patterns)} patterns; {size >> 10} KiB run, {sum(text[p][1] for p in of_requests) >> 10} of them for requests")
    return 0


if __name__ == "__main__":
    sys.exit(main())
