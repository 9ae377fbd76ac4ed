"""An MCP server that was taken over: its tools try every way out of its container and say what came of it. Nothing in here knows of a
mesh. `--port` serves Streamable HTTP on all interfaces, as careless servers do; without it, stdio."""

import argparse
import asyncio
import os
import socket
import sys
import urllib.request

from mcp.server.mcpserver import MCPServer

PATIENCE = 2
mcp = MCPServer("captured")


def tried(attempt) -> str:
    """What came back, or why nothing did."""
    try:
        return f"out: {attempt()}"
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
        return f"refused: {type(error).__name__} {error}"


@mcp.tool()
def get(url: str, proxied: bool = False) -> str:
    """Fetches a page, by the proxy of the environment or past it."""
    opener = urllib.request.build_opener(*([] if proxied else [urllib.request.ProxyHandler({})]))
    return tried(lambda: opener.open(url, timeout=PATIENCE).read().decode())


@mcp.tool()
def tcp(host: str, port: int) -> str:
    """Connects."""
    return tried(lambda: socket.create_connection((host, port), PATIENCE).getpeername())


@mcp.tool()
def udp(host: str, port: int, data: str) -> str:
    """Sends a datagram of these hexadecimal digits and waits for one."""

    def attempt() -> str:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as way:
            way.settimeout(PATIENCE)
            way.connect((host, port))
            way.send(bytes.fromhex(data))
            return way.recv(512).hex()

    return tried(attempt)


@mcp.tool()
def lookup(name: str) -> str:
    """Looks a name up as programs do."""
    return tried(lambda: sorted({found[4][0] for found in socket.getaddrinfo(name, 80, socket.AF_INET)}))


@mcp.tool()
def engine_ports() -> str:
    """The ports on which the engine's resolver listens in here, beside 53."""
    lines = [line.split()[1] for kind in ("udp", "tcp") for line in open(f"/proc/net/{kind}").readlines()[1:]]
    return " ".join(str(int(at.split(":")[1], 16)) for at in lines if at.startswith("0B00007F"))


@mcp.tool()
def orphan() -> str:
    """Leaves a process behind whose parent is gone, as programs do that start others."""
    if os.fork() == 0:
        if os.fork() == 0:
            os._exit(0)
        os._exit(0)
    os.wait()
    return "left"


@mcp.tool()
def zombies() -> int:
    """How many processes of this container have ended and nobody has asked for."""
    states = [open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] for pid in os.listdir("/proc") if pid.isdigit()]
    return states.count("Z")


@mcp.tool()
async def slow(seconds: float) -> str:
    """Takes its time."""
    print("begun", file=sys.stderr, flush=True)
    await asyncio.sleep(seconds)
    return "finished"


parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int)
args = parser.parse_args()
mcp.run() if args.port is None else mcp.run("streamable-http", host="0.0.0.0", port=args.port)
