"""What is outside, for the attack cases of egress: a DNS server that lies, and origins at every address of the namespace.

    world.py DIR [--dns ADDRESS]

Prints a JSON line for everything that arrives: a connection, the name of its TLS, a request, a datagram, a question. What a
proxy says of itself does not count; this does. DIR has `origin.pem` and `origin.key`. Stdlib only.
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import ssl
import struct
import threading
from pathlib import Path

ALLOWED, WILD, IDN, EVIL = "20.20.20.10", "20.20.20.11", "20.20.20.12", "20.20.20.66"
PORTS = (22, 80, 443, 8080, 8443)
ANSWERS = {
    "allowed.test": [ALLOWED],
    "xn--bcher-kva.test": [IDN],
    "wild.test": [WILD],
    "localhost": ["127.0.0.1", "::1"],
    "lo4.wild.test": ["127.0.0.1"],
    "127.0.0.1.wild.test": ["127.0.0.1"],
    "meta.wild.test": ["169.254.169.254"],
    "metadata.google.internal": ["169.254.169.254"],
    "ten.wild.test": ["10.0.0.5"],
    "cgnat.wild.test": ["100.64.0.5"],
    "zero.wild.test": ["0.0.0.0"],
    "lo6.wild.test": ["::1"],
    "mapped.wild.test": ["::ffff:127.0.0.1"],
    "nat64.wild.test": ["64:ff9b::7f00:1"],
    "ula.wild.test": ["fd00:ec2::254"],
    "mixed.wild.test": [WILD, "127.0.0.1"],
    "split.wild.test": [WILD, "::1"],
    "sixtofour.wild.test": ["2002:7f00:1::"],
    # The same with the special address in the middle of many.
    "crowd.wild.test": [WILD] * 20 + ["10.0.0.5"] + [WILD] * 20,
}
ALIASES = {"cname-lo.wild.test": "localhost", "cname-ten.wild.test": "ten.wild.test"}
LOCK = threading.Lock()
REBOUND: dict[str, int] = {}


def tell(**what: object) -> None:
    with LOCK:
        print(json.dumps(what), flush=True)


def addresses(name: str) -> list[str]:
    if name.endswith("rebind.wild.test"):
        # First public, then inside, and so on: what was checked must be what is dialled.
        REBOUND[name] = REBOUND.get(name, 0) + 1
        return [WILD] if REBOUND[name] % 2 else ["127.0.0.1"]
    if name in ANSWERS:
        return ANSWERS[name]
    # Everything else leads to the evil origin, so that a leak is seen.
    return [WILD] if name.endswith(".wild.test") else [EVIL]


def answer(query: bytes) -> bytes:
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode("latin1"))
        at += query[at] + 1
    (kind,) = struct.unpack("!H", query[at + 1 : at + 3])
    name = ".".join(labels).lower()
    tell(dns=name)
    records, owner = [], b"\xc0\x0c"
    if alias := ALIASES.get(name):
        target = b"".join(bytes([len(label)]) + label.encode() for label in alias.split(".")) + b"\0"
        records.append(owner + struct.pack("!HHIH", 5, 1, 0, len(target)) + target)
        name, owner = alias, target
    family = {1: socket.AF_INET, 28: socket.AF_INET6}.get(kind)
    for address in addresses(name) if family else []:
        if (":" in address) == (kind == 28):
            packed = socket.inet_pton(family, address)
            records.append(owner + struct.pack("!HHIH", kind, 1, 0, len(packed)) + packed)
    head = query[:2] + struct.pack("!HHHHH", 0x8580, 1, len(records), 0, 0)
    return head + query[12 : at + 5] + b"".join(records)


def dns_datagrams(address: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((address, 53))
        while True:
            query, sender = server.recvfrom(4096)
            try:
                server.sendto(answer(query), sender)
            except (IndexError, struct.error, OSError):
                tell(dns="unreadable")


def dns_streams(address: str) -> None:
    with socket.create_server((address, 53)) as server:
        while True:
            client, _ = server.accept()
            with client:
                try:
                    client.settimeout(2)
                    (length,) = struct.unpack("!H", client.recv(2))
                    reply = answer(client.recv(length))
                    client.sendall(struct.pack("!H", len(reply)) + reply)
                except (IndexError, struct.error, OSError):
                    tell(dns="unreadable")


def serve(client: socket.socket, certificate: Path) -> None:
    at, port = client.getsockname()[0].removeprefix("::ffff:"), client.getsockname()[1]
    tell(tcp=at, port=port)
    try:
        client.settimeout(60)
        if client.recv(1, socket.MSG_PEEK) == b"\x16":
            client = tls(client, certificate, at, port)
        requests(client, at, port)
    except OSError:
        pass  # cut off, which is what is being tested
    finally:
        client.close()


def tls(client: socket.socket, certificate: Path, at: str, port: int) -> ssl.SSLSocket:
    names: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "origin.pem", certificate / "origin.key")
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    client = context.wrap_socket(client, server_side=True)
    tell(tls=at, port=port, sni=names[0] if names else None)
    return client


def requests(client: socket.socket, at: str, port: int) -> None:
    held = b""
    while True:
        while not (end := re.search(rb"\r?\n\r?\n", held)):
            chunk = client.recv(65536)
            if not chunk:
                if held:
                    tell(request=at, port=port, head=held.decode("latin1")[:4000])
                return
            held += chunk
        head, held = held[: end.start()].decode("latin1"), held[end.end() :]
        tell(request=at, port=port, head=head[:20000])
        fields = [line.partition(":") for line in re.split(r"\r?\n", head)[1:]]
        lengths = [value.strip() for name, _, value in fields if name.lower() == "content-length"]
        if any(name.lower() == "transfer-encoding" and "chunked" in value.lower() for name, _, value in fields):
            while b"0\r\n\r\n" not in held and (chunk := client.recv(65536)):
                held += chunk
            held = held.partition(b"0\r\n\r\n")[2]
        elif lengths and lengths[0].isdigit():
            while len(held) < int(lengths[0]) and (chunk := client.recv(65536)):
                held += chunk
            held = held[int(lengths[0]) :]
        body = json.dumps({"origin": at, "port": port}).encode()
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


def listen(port: int, certificate: Path) -> None:
    with socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1000) as server:
        while True:
            client, _ = server.accept()
            threading.Thread(target=serve, args=(client, certificate), daemon=True).start()


def datagrams(port: int) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as server:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        server.bind(("::", port))
        while True:
            tell(udp=port, said=server.recv(2000).decode("latin1"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--dns", help="address of the DNS server; without it there is none")
    args = parser.parse_args()
    jobs = [(listen, (port, args.directory)) for port in PORTS] + [(datagrams, (443,))]
    jobs += [(job, (args.dns,)) for job in (dns_datagrams, dns_streams) if args.dns]
    for job, arguments in jobs:
        threading.Thread(target=job, args=arguments, daemon=True).start()
    tell(ready=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
