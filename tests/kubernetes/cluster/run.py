#!/usr/bin/env python3
"""Outrigger and a real API server. Needs root.

    run.py --programs DIRECTORY --outrigger target/debug/outrigger --kubectl kubectl [--only manifests,webhook,discovery] [--keep]
    run.py --programs DIRECTORY --ours target/compose/programs --only node

DIRECTORY has `etcd` and `kube-apiserver`, which nothing here can get; for the stage `node` also what OF_A_NODE names. They, and all of
ours, run in namespaces of this test, and end with it. In the other stages nothing schedules and nothing runs images: node.py makes
processes of what the API server says of pods.
Last line: `N passed, M failed`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

PROGRAMS = ["etcd", "kube-apiserver"]
OF_A_NODE = ["kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "containerd", "containerd-shim-runc-v2", "ctr", "runc",
             "bridge", "host-local", "loopback"]
# Set in the namespaces that this script makes for itself.
INSIDE = "OUTRIGGER_CLUSTER_INSIDE"

passed = failed = 0


def that(what, holds, detail=""):
    global passed, failed
    passed, failed = passed + bool(holds), failed + (not holds)
    print(f"{'ok  ' if holds else 'FAIL'} {what}{'' if holds else f': {str(detail)[-2000:]}'}", flush=True)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", default="", help="a directory with etcd and kube-apiserver")
    parser.add_argument("--check", action="store_true", help="only whether the programs are there")
    parser.add_argument("--outrigger", type=Path)
    parser.add_argument("--kubectl", default="kubectl")
    parser.add_argument("--only", default="manifests,webhook,discovery", help="stages; `node` is one more")
    parser.add_argument("--ours", type=Path, help="a directory with the programs of images: outrigger, outrigger-ingress, outrigger-sidecar")
    parser.add_argument("--keep", action="store_true", help="the files of this run")
    args = parser.parse_args()
    # Empty: nobody has said where they are.
    args.programs = Path(args.programs).resolve() if args.programs else None
    wanted = [*PROGRAMS, *(OF_A_NODE if "node" in args.only.split(",") else [])]
    missing = [name for name in wanted if not args.programs or not os.access(args.programs / name, os.X_OK)]
    if missing:
        where = f"{args.programs} lacks {' and '.join(missing)}" if args.programs else "no directory was named"
        raise SystemExit(
            f"cluster: this takes `etcd` (3.5 or later) and `kube-apiserver` (1.29 or later); for ONLY=node {', '.join(OF_A_NODE)} too; and {where}: "
            "make cluster KUBERNETES=/path/to/their/directory"
        )
    if "node" in args.only.split(",") and not args.ours and not args.check:
        raise SystemExit("cluster: a node takes the programs of images: --ours target/compose/programs")
    if os.geteuid():
        raise SystemExit("cluster: namespaces of the network take root")
    return args


def main():
    args = arguments()
    if args.check:
        return 0
    if INSIDE not in os.environ:
        os.environ[INSIDE] = "1"
        words = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, *sys.argv]
        os.execvp(words[0], words)
    # Not before: whether the programs are there is asked before anything is installed.
    import discovery
    import manifests
    import walk
    import webhook
    from control import Control, network
    from mesh import Mesh

    work = Path(tempfile.mkdtemp(prefix="outrigger-cluster-"))
    # Users of pods go through it.
    work.chmod(0o755)
    network()
    control = Control(args.programs, args.kubectl, work)
    meshes = []

    def mesh():
        """One for all stages that want it."""
        meshes.extend([] if meshes else [Mesh(control, args.outrigger.resolve())])
        return meshes[0]

    stages = {"manifests": lambda: manifests.check(control, that), "webhook": lambda: webhook.check(mesh(), that),
              "discovery": lambda: discovery.check(mesh(), that), "node": lambda: walk.check(control, args.ours.resolve(), that)}
    try:
        control.start()
        for name in args.only.split(","):
            try:
                stages[name]()
            except Exception:  # noqa: BLE001 - the other stages can still say something
                that(f"`{name}` went through", False, traceback.format_exc())
    finally:
        for each in meshes:
            each.node.end_all()
        control.end_all()
        if args.keep or failed:
            print(f"its files: {work}")
        else:
            shutil.rmtree(work, ignore_errors=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
