#!/usr/bin/env python3
"""Every client revision with every server revision over every transport, through one mesh; feature by feature.

    run.py --start target/debug/outrigger                    the whole matrix
    run.py --start ... --only 2025-06-18:stdio-2024-11-05    pairs whose name begins so

Prints the table and compares it with docs/COMPATIBILITY.md, which is generated from it (`--write`). What fails for a
known reason is in expected.yaml. Last line: `N passed, M failed`.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent / "acceptance"))

from mesh import Mesh, NotReady, Processes, Subjects, start_mesh  # noqa: E402

import pairs  # noqa: E402
import report  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", metavar="OUTRIGGER", required=True, help="start a mesh with this binary")
    parser.add_argument("--only", action="append", default=[], metavar="PAIR", help="pairs that begin so")
    parser.add_argument("--feature", action="append", default=[], help="features that begin so")
    parser.add_argument("--write", action="store_true", help="rewrite docs/COMPATIBILITY.md")
    parser.add_argument("--subjects", type=Path, default=ROOT / "target" / "subjects")
    parser.add_argument("--dir", type=Path, default=ROOT / "target" / "matrix", help="logs and state")
    args = parser.parse_args()

    subjects = Subjects(args.subjects.resolve())
    try:
        subjects.check()
        with Processes(args.dir.resolve(), subjects.environment()) as processes:
            servers = pairs.servers(processes, subjects)
            manifest = {
                "mesh": "matrix",
                "ingress": {"listen": "127.0.0.1:0", "http_sse": True},
                "services": {s.name: s.service for s in servers},
            }
            state = processes.logs / "state"
            mesh: Mesh = start_mesh(processes, args.start, manifest, state, [s.name for s in servers])
            alone = pairs.sidecars(processes, args.start, servers)
            world = pairs.World(mesh, args.start, processes.logs, subjects, pairs.sdks(subjects), alone)
            wanted = pairs.Selection(tuple(args.only), tuple(args.feature))
            results = asyncio.run(pairs.run_all(servers, world, wanted))
            sins = pairs.sins(processes.logs)
    except NotReady as problem:
        print(problem, file=sys.stderr)
        print("0 passed, 1 failed")
        return 1
    page = None if args.only or args.feature else ROOT / "docs" / "COMPATIBILITY.md"
    return report.judge(results, sins, page, args.write)


if __name__ == "__main__":
    sys.exit(main())
