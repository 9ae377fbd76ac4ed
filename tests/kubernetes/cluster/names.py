#!/usr/bin/env python3
"""A resolver for the Services of a cluster that has none: names.py ADDRESS KUBECTL KUBECONFIG. Addresses of IPv4, nothing else."""

import json
import socket
import struct
import subprocess
import sys
import threading
import time

SUFFIX = ".cluster.local"


def get(kind):
    words = [sys.argv[2], f"--kubeconfig={sys.argv[3]}", "get", kind, "-A", "-o", "json"]
    return json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)["items"]


def look(names):
    """Services have an address, or those of their pods."""
    new = {}
    pods = get("endpointslices")
    for service in get("services"):
        meta, spec = service["metadata"], service["spec"]
        found = [spec["clusterIP"]]
        if spec["clusterIP"] == "None":
            own = [each for each in pods if each["metadata"]["namespace"] == meta["namespace"]
                   and each["metadata"]["labels"].get("kubernetes.io/service-name") == meta["name"]]
            found = [address for each in own for one in each["endpoints"] or []
                     if one["conditions"]["ready"] or spec.get("publishNotReadyAddresses") for address in one["addresses"]]
        new[f"{meta['name']}.{meta['namespace']}.svc"] = found
    names.clear()
    names.update(new)


def keep(names):
    while True:
        try:
            look(names)
        except (subprocess.CalledProcessError, LookupError, ValueError) as error:
            print(error, flush=True)
        time.sleep(1)


def answer(question, names):
    at, labels = 12, []
    while question[at]:
        labels.append(question[at + 1 : at + 1 + question[at]].decode())
        at += question[at] + 1
    kind = struct.unpack(">H", question[at + 1 : at + 3])[0]
    found = names.get(".".join(labels).lower().removesuffix(SUFFIX))
    addresses = (found or []) if kind == 1 else []
    head = struct.pack(">HHHHH", 0x8580 | (3 if found is None else 0), 1, len(addresses), 0, 0)
    records = b"".join(b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 1, 4) + socket.inet_aton(each) for each in addresses)
    return question[:2] + head + question[12 : at + 5] + records


def main():
    names = {}
    threading.Thread(target=keep, args=[names], daemon=True).start()
    way = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    way.bind((sys.argv[1], 53))
    while True:
        question, sender = way.recvfrom(1500)
        way.sendto(answer(question, names), sender)


if __name__ == "__main__":
    main()
