"""Which servers stand in the mesh, which clients meet them, and how one pair is tried."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Callable

import httpx2

from checks import FEATURES, UNDECLARED, Feature, Impossible, Lossy, Pair, same
from drivers.client import Client
from drivers.sdk import Driver, Place, Sdk, SdkClient
from drivers.transports import Http, Sse, Stdio
from mesh import Mesh, Processes, Subjects, free_port
from sidecar import Authority, start_sidecar

REVISIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28")
REFERENCE = Path(__file__).resolve().parent / "server" / "reference.py"
# Pairs at work at once, on two cores.
AT_ONCE = 6
FEATURE_SECONDS = 60
# Services that raw clients also reach through the merged endpoint, and over stdio through `outrigger connect`.
MERGED = ("stdio-20251125", "http-20250618", "http-20260728")
WITH_SSE = ("2024-11-05", "2025-11-25")
# And at a sidecar of their own, with a client certificate and without an ingress.
ALONE = ("stdio-20241105", "http-20250618", "http-20251125", "sse-20241105", "stdio-20260728", "http-20260728")
CONNECTED = ("stdio-20250326", "http-20251125", "stdio-20260728")


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
    sdk: Sdk | None = None
    features: dict[str, Outcome] = field(default_factory=dict)
    sins: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.client}/{self.via}:{self.server.name}"


@dataclass(frozen=True)
class World:
    """What every pair needs."""

    mesh: Mesh
    binary: str
    logs: Path
    subjects: Subjects
    sdks: list[Sdk]
    # By service: the sidecars of `ALONE`, as acceptance describes places.
    alone: dict[str, dict[str, str]]


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
    for pattern in ("*.sins*", "outside-*", "whisper-*"):
        for old in processes.logs.glob(pattern):
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
        if revision in WITH_SSE:
            url = f"http://127.0.0.1:{port}/{revision}/sse"
            out.append(Server(f"sse-{short(revision)}", revision, "HTTP+SSE", {"url": url}))
    return out


def sdks(subjects: Subjects) -> list[Sdk]:
    """SDK releases as clients: the last ones that speak each revision, and those of today."""
    drivers = Path(__file__).resolve().parent / "drivers"
    ts1, ts2, py = str(drivers / "sdk_ts1.mjs"), str(drivers / "sdk_ts2.mjs"), str(drivers / "sdk_py.py")
    package = subjects.node_modules.joinpath
    official = str(package("@modelcontextprotocol", "client"))
    return [
        # Has no Streamable HTTP. Forgets who waits for progress when the answer comes in the same piece.
        Sdk("typescript-1.9-sse", "2024-11-05", (subjects.node, ts1, str(package("sdk-2024-11-05"))), over_sse=True,
            skips=frozenset({"progress", "tasks"})),
        Sdk("typescript-1.9", "2024-11-05", (subjects.node, ts1, str(package("sdk-2024-11-05"))), over_connect=True,
            skips=frozenset({"progress", "tasks"})),
        Sdk("typescript-1.12", "2025-03-26", (subjects.node, ts1, str(package("sdk-2025-03-26")))),
        Sdk("typescript-1.23", "2025-06-18", (subjects.node, ts1, str(package("sdk-2025-06-18")))),
        Sdk("typescript-1.32", "2025-11-25", (subjects.node, ts1, str(package("@modelcontextprotocol", "sdk")))),
        # Turns -32002 into the code of today, whoever sends it.
        Sdk("typescript-2.4-legacy", "2025-11-25", (subjects.node, ts2, official, "legacy"), not_found=-32602),
        Sdk("typescript-2.4", "2026-07-28", (subjects.node, ts2, official, "2026-07-28")),
        # Tells nobody that it gives a call up.
        Sdk("python-1.30", "2025-11-25", (str(subjects.root / "venv-v1" / "bin" / "python3"), py, "legacy"),
            skips=frozenset({"cancellation", "tasks"})),
        Sdk("python-2.3-legacy", "2025-11-25", (subjects.python, py, "legacy")),
        Sdk("python-2.3", "2026-07-28", (subjects.python, py, "2026-07-28")),
    ]


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


async def run_all(all_servers: list[Server], world: World, wanted: Selection) -> list[PairResult]:
    """Each server meets one client after the other, so that what it shares between clients does not blur what each sees:
    over stdio, nothing says to which call a log message belongs while several are at work."""
    places = asyncio.Semaphore(AT_ONCE)
    results: list[PairResult] = []

    async def in_turn(queue: list[tuple[PairResult, Callable]]) -> None:
        async with places:
            for result, run in queue:
                await run(result)

    queues = []
    for server in all_servers:
        queue = [(PairResult(r, "http", server), partial(raw_http, world, wanted)) for r in REVISIONS]
        queue.append((PairResult(REVISIONS[0], "sse", server), partial(raw_sse, world, wanted)))
        if server.name in MERGED:
            queue += [(PairResult(r, "merged", server), partial(raw_merged, world, wanted)) for r in REVISIONS]
        if server.name in CONNECTED:
            queue += [(PairResult(r, "connect", server), partial(raw_connect, world, wanted)) for r in REVISIONS]
        if server.name in ALONE:
            queue += [(PairResult(r, "sidecar", server), partial(raw_sidecar, world, wanted)) for r in REVISIONS]
        queues.append([(r, run) for r, run in queue if wanted.pair(r.name)])
    results += [r for queue in queues for r, _ in queue]
    # Each SDK begins with another server, so that they seldom wait for each other.
    turned = [all_servers[i:] + all_servers[:i] for i in range(len(all_servers))]
    sdk_queues = {
        sdk: [PairResult(sdk.revision, sdk.name, s, sdk) for s in turned[at % len(turned)]]
        for at, sdk in enumerate(world.sdks)
    }
    sdk_queues = {sdk: [r for r in queue if wanted.pair(r.name)] for sdk, queue in sdk_queues.items()}
    results += [r for queue in sdk_queues.values() for r in queue]
    await asyncio.gather(*(in_turn(q) for q in queues))
    turns = {server.name: asyncio.Lock() for server in all_servers}
    await asyncio.gather(*(with_sdk(world, wanted, places, turns, sdk, q) for sdk, q in sdk_queues.items() if q))
    return results


async def raw_http(world: World, wanted: Selection, result: PairResult) -> None:
    http = Http(http_client(world.mesh), world.mesh.service(result.server.name), result.client)
    await try_pair(result, Client(result.client, http), wanted, world.logs)


async def raw_sse(world: World, wanted: Selection, result: PairResult) -> None:
    sse = Sse(http_client(world.mesh), sse_url(world, result.server))
    await try_pair(result, Client(result.client, sse), wanted, world.logs)


def sse_url(world: World, server: Server) -> str:
    return world.mesh.service(server.name).removesuffix("/mcp") + "/sse"


async def raw_merged(world: World, wanted: Selection, result: PairResult) -> None:
    http = Http(http_client(world.mesh), world.mesh.merged, result.client)
    name = result.server.name
    await try_pair(result, Client(result.client, http), wanted, world.logs, f"{name}__", f"{name}+")


async def raw_connect(world: World, wanted: Selection, result: PairResult) -> None:
    log = world.logs / f"connect-{result.client}-{result.server.name}.log"
    stdio = Stdio(connect_command(world, result.server), str(log))
    await try_pair(result, Client(result.client, stdio), wanted, world.logs)


async def raw_sidecar(world: World, wanted: Selection, result: PairResult) -> None:
    place = world.alone[result.server.name]
    context = ssl.create_default_context(cafile=place["MESH_CA"])
    context.load_cert_chain(place["MESH_CLIENT_CERT"], place["MESH_CLIENT_KEY"])
    http = httpx2.AsyncClient(verify=context, trust_env=False, timeout=httpx2.Timeout(30, read=120))
    await try_pair(result, Client(result.client, Http(http, place["MESH_INGRESS_URL"], result.client)), wanted, world.logs)


def sidecars(processes: Processes, binary: str, all_servers: list[Server]) -> dict[str, dict[str, str]]:
    """Starts a sidecar without an ingress for each of `ALONE`."""
    authority = Authority(binary, processes.logs / "authority")
    out = {}
    for server in all_servers:
        if server.name in ALONE:
            service = {"upstream": server.service["url"]} if "url" in server.service else server.service
            out[server.name] = start_sidecar(processes, binary, authority, server.name, service)
    return out


def connect_command(world: World, server: Server) -> list[str]:
    token = world.mesh.document["token_file"]
    return [world.binary, "connect", "--url", world.mesh.service(server.name), "--token-file", token]


async def with_sdk(
    world: World, wanted: Selection, places: asyncio.Semaphore, turns: dict[str, asyncio.Lock], sdk: Sdk,
    queue: list[PairResult],
) -> None:
    async with places, Driver(sdk, world.logs / f"{sdk.name}.log", world.subjects.environment()) as driver:
        for result in queue:
            if sdk.over_connect:
                place = Place(command=tuple(connect_command(world, result.server)))
            else:
                headers = {"Authorization": f"Bearer {world.mesh.credentials()['MESH_TOKEN']}"}
                url = sse_url(world, result.server) if sdk.over_sse else world.mesh.service(result.server.name)
                place = Place(url, headers)
            async with turns[result.server.name]:
                # The drivers hand on no news of lists.
                skips = sdk.skips | {"changes of lists"}
                await try_pair(result, SdkClient(driver, place), wanted, world.logs, skips=skips)


async def try_pair(
    result: PairResult, client: Any, wanted: Selection, logs: Path, names: str = "", uris: str = "",
    skips: frozenset[str] = frozenset(),
) -> None:
    """Every feature, one after the other, in one session."""
    chosen = [f for f in FEATURES if wanted.feature(f.name) and f.name not in skips]
    try:
        async with client:
            pair = Pair(client, result.server.revision, names, uris, logs)
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
