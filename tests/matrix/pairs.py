"""Which servers stand in the mesh, which clients meet them, and how one pair is tried."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from checks import FEATURES, UNDECLARED, Feature, Impossible, Lossy, Pair, same
from drivers.client import Client
from drivers.transports import Http, Sse, Stdio
from mesh import Mesh, Processes, Subjects, free_port

REVISIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28")
REFERENCE = Path(__file__).resolve().parent / "server" / "reference.py"
# Pairs at work at once, on two cores.
AT_ONCE = 6
FEATURE_SECONDS = 60


@dataclass(frozen=True)
class Server:
    """A service of the mesh."""

    name: str
    revision: str
    transport: str
    service: dict


@dataclass
class Outcome:
    """What one feature did in one pair: `works`, `lossy`, `impossible`, `absent` or `failed`, and why."""

    kind: str
    why: str = ""


@dataclass
class PairResult:
    client: str
    via: str
    server: Server
    features: dict[str, Outcome] = field(default_factory=dict)
    sins: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.client}/{self.via}:{self.server.name}"


@dataclass(frozen=True)
class Selection:
    pairs: tuple[str, ...]
    features: tuple[str, ...]

    def pair(self, name: str) -> bool:
        return not self.pairs or any(name.startswith(p) for p in self.pairs)

    def feature(self, name: str) -> bool:
        return not self.features or any(name.startswith(f) for f in self.features)


def servers(processes: Processes, subjects: Subjects) -> list[Server]:
    """Starts what has to run already; returns every variant as a service."""
    port = free_port()
    for old in processes.logs.glob("*.sins*"):
        old.unlink()
    python = subjects.python
    processes.serve("reference", [python, str(REFERENCE), "http", str(port), "--sins", sins_file(processes, "http")], port)
    out = []
    for revision in REVISIONS:
        stdio = [python, str(REFERENCE), "stdio", revision, "--sins", sins_file(processes, f"stdio-{revision}")]
        out.append(Server(f"stdio-{short(revision)}", revision, "stdio", {"command": stdio}))
        if revision > REVISIONS[0]:
            url = f"http://127.0.0.1:{port}/{revision}/mcp"
            out.append(Server(f"http-{short(revision)}", revision, "Streamable HTTP", {"url": url}))
    return out


def short(revision: str) -> str:
    """Service names have 20 characters at most."""
    return revision.replace("-", "")


def sins_file(processes: Processes, name: str) -> str:
    return str(processes.logs / f"{name}.sins")


def sins(logs: Path) -> list[str]:
    """What the reference servers noted, each once."""
    lines: dict[str, None] = {}
    for file in sorted(logs.glob("*.sins")):
        lines.update({f"{file.stem}: {line}": None for line in file.read_text(encoding="utf-8").splitlines()})
    return list(lines)


def http_client(mesh: Mesh) -> httpx2.AsyncClient:
    headers = {"Authorization": f"Bearer {mesh.credentials()['MESH_TOKEN']}"}
    return httpx2.AsyncClient(headers=headers, trust_env=False, timeout=httpx2.Timeout(30, read=120))


async def run_all(all_servers: list[Server], mesh: Mesh, binary: str, logs: Path, wanted: Selection) -> list[PairResult]:
    places = asyncio.Semaphore(AT_ONCE)
    results = [PairResult(revision, "http", server) for server in all_servers for revision in REVISIONS]
    results = [r for r in results if wanted.pair(r.name)]

    async def one_server(server: Server) -> None:
        """One client after the other, so that what a server shares between clients does not blur what each sees."""
        async with places:
            for result in (r for r in results if r.server is server):
                http = Http(http_client(mesh), mesh.service(server.name), result.client)
                await try_pair(result, Client(result.client, http), wanted, logs)

    await asyncio.gather(*(one_server(s) for s in all_servers))
    return results


async def try_pair(result: PairResult, client: Client, wanted: Selection, logs: Path) -> None:
    """Every feature, one after the other, in one session."""
    chosen = [f for f in FEATURES if wanted.feature(f.name)]
    try:
        async with client:
            pair = Pair(client, result.server.revision, logs=logs)
            for feature in chosen:
                result.features[feature.name] = await try_feature(feature, pair)
    except Exception as error:  # noqa: BLE001
        for feature in chosen:
            result.features.setdefault(feature.name, Outcome("failed", f"no session: {describe(error)}"))
    result.sins = sorted(set(client.sins))


async def try_feature(feature: Feature, pair: Pair) -> Outcome:
    try:
        async with asyncio.timeout(FEATURE_SECONDS):
            if why := feature.absent(pair.client.revision, pair.server):
                await undeclared(feature, pair)
                return Outcome("absent", why)
            verdict = await feature.run(pair)
    except Exception as error:  # noqa: BLE001
        return Outcome("failed", describe(error))
    match verdict:
        case Lossy(reason):
            return Outcome("lossy", reason)
        case Impossible(reason):
            return Outcome("impossible", reason)
    return Outcome("works")


async def undeclared(feature: Feature, pair: Pair) -> None:
    """A server must not be told that a client can what its revision does not have."""
    if feature.undeclared and feature.server <= pair.server and pair.client.revision < feature.client:
        same(await pair.text(feature.undeclared), UNDECLARED, "what the server believes of the client")


def describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if not isinstance(error, RuntimeError) else str(error)
