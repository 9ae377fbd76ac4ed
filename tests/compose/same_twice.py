#!/usr/bin/env python3
"""That an image of the Dockerfile has the same files each time it is built: twice, without a cache, and every file is compared.

    same_twice.py --programs DIR [--target sidecar]

DIR has the programs, as tests/compose/programs.sh puts them there. That the programs are the same each time is shown by building them twice
in one place. Not part of `make test`: builds without a cache take a while.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from images import ROOT, TARGETS, docker

BUILD = ["--no-cache", "--build-arg", "PROGRAMS=prebuilt", "--build-arg", "RUST_IMAGE=debian:bookworm-slim"]
# What an engine puts into every container.
OF_THE_ENGINE = {".dockerenv", "dev", "proc", "sys", "etc/hostname", "etc/hosts", "etc/mtab", "etc/resolv.conf"}


def context(programs: Path, into: Path) -> None:
    shutil.copytree(programs, into / "dist")
    for path in ("compose/nsswitch.conf", "sidecar/policy", "Dockerfile"):
        there = into / path
        there.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / path).is_dir() else shutil.copy)(ROOT / path, there)


def files(image: str) -> list[tuple[object, ...]]:
    """Everything in the file system of an image, but for times."""
    container = docker("create", image, "none")
    try:
        export = subprocess.Popen(["docker", "export", container], stdout=subprocess.PIPE)
        found = []
        with tarfile.open(fileobj=export.stdout, mode="r|") as archive:
            for one in archive:
                if one.name.split("/")[0] in OF_THE_ENGINE or one.name in OF_THE_ENGINE:
                    continue
                content = archive.extractfile(one) if one.isfile() else None
                digest = hashlib.sha256(content.read()).hexdigest() if content else ""
                found.append((one.name, one.type.decode(), one.mode, one.uid, one.gid, one.linkname, one.size, digest))
        return sorted(found)
    finally:
        docker("rm", container)


def made(work: Path, target: str, tag: str) -> tuple[str, list[tuple[object, ...]]]:
    docker("build", "--quiet", *BUILD, "--target", target, "--tag", tag, str(work))
    try:
        config = json.loads(docker("inspect", "--format", "{{json .Config}}", tag))
        # The name of the container of the last step, for some builders.
        config.pop("Hostname", None), config.pop("Image", None)
        return json.dumps(config, sort_keys=True), files(tag)
    finally:
        docker("rmi", "--no-prune", tag)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=Path, required=True)
    parser.add_argument("--target", choices=TARGETS, action="append")
    args = parser.parse_args()
    differ = 0
    with tempfile.TemporaryDirectory() as work:
        context(args.programs.resolve(), Path(work))
        for target in args.target or TARGETS:
            first, second = (made(Path(work), target, f"outrigger-same-{os.getpid()}:{n}") for n in (1, 2))
            same = first == second
            differ += not same
            digest = hashlib.sha256(json.dumps(first[1]).encode()).hexdigest()
            print(f"{'ok  ' if same else 'FAIL'} {target}: {len(first[1])} files, {digest[:16]}", flush=True)
            for one in sorted(set(first[1]) ^ set(second[1])):
                print("    ", *one)
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
