"""What a run says of itself: machine, versions, commit, method. Stdlib only."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import time
from pathlib import Path

from installed import mib, missing, version, versions

ROOT = Path(__file__).resolve().parents[2]
METHOD = [
    "Everything is on loopback. The proxies have one core and one thread each, load and upstream have another core.",
    "CPU time is the scheduler's run time of the proxy's processes in a timed window, divided by the answers in it.",
    "Peers are interleaved in each pass; a figure is the median of the passes, the range behind it their least and most.",
    "At a fixed rate the loop is open: a request is timed from the moment it was due. At 1,000 calls per second a window is three times as long.",
    "TLS 1.3, X25519, ECDSA P-256, client certificates, no resumption; all new connections show one certificate. Access logs off. Our policy is on and allows everything.",
    "A tools/call has about 300 bytes, its answer about 200, an event about 130; 64 connections.",
]
OURS = ["outrigger-sidecar", "outrigger-ingress"]


def about(began: float, args: argparse.Namespace, ours: Path, broken: list[str]) -> dict:
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(began)),
        "minutes": round((time.time() - began) / 60, 1),
        "command": command(args),
        "passes": args.runs,
        "seconds": args.seconds,
        "suites": args.suites.split(","),
        "commit": commit(),
        "machine": machine(),
        # After the run: what it was itself, and what else was.
        "load_average": round(os.getloadavg()[0], 2),
        "versions": {**our_versions(ours), **versions()},
        "missing": missing(),
        "broken": broken,
        "method": METHOD,
    }


def command(args: argparse.Namespace) -> str:
    """What to type for the same; where peers are is the reader's own business."""
    parts = ["tests/bench/run.sh", f"--runs {args.runs}", f"--seconds {args.seconds:g}"]
    parts += [f"--suites {args.suites}"] if args.suites != args.all_suites else []
    parts += [f"--peers '{args.peers}'"] if args.peers else []
    return " ".join([*parts, "--write"])


def commit() -> str:
    hash_ = git("rev-parse", "--short=12", "HEAD")
    # What this command writes is no change of what it measures.
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs")
    return f"{hash_} with changes" if changed else hash_ or "unknown"


def git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def machine() -> dict:
    cpu = named("/proc/cpuinfo", "model name", ":")
    memory = int((named("/proc/meminfo", "MemTotal", ":") or "0").split()[0])
    system = named("/etc/os-release", "PRETTY_NAME", "=").strip('"')
    return {
        "cpu": cpu or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 1024 / 1024, 1),
        "system": system or platform.system(),
        "kernel": platform.release(),
        "as_root": os.geteuid() == 0,
    }


def named(file: str, name: str, mark: str) -> str:
    """The first value under a name; empty where there is none."""
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.split(mark, 1)[1].strip() for line in lines if line.startswith(name)), "")


def our_versions(ours: Path) -> dict[str, dict]:
    found = {}
    for name in OURS:
        if (file := ours / name).exists():
            found[name] = {"version": version([str(file), "--version"], r"(\d+\.\d+\S*)"), "mib": mib(file)}
    return found
