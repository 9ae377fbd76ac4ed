#!/usr/bin/env python3
"""What an injection adds to the admission of a pod: AdmissionReviews over TLS, asked of a running webhook, as an API server asks them.

    admission.py --outrigger target/release/outrigger [--count 300]

Each question is timed from the first byte of it to the last of its answer, on a connection that is kept, and with a connection and a
handshake of its own. Not part of `make test`: times mean something on a machine that does nothing else.
"""

import argparse
import http.client
import json
import os
import pathlib
import socket
import ssl
import statistics
import subprocess
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
NAME = "outrigger-injector.outrigger-system.svc"
POD = {
    "metadata": {"generateName": "notes-", "annotations": {"outrigger.dev/inject": "true"}},
    "spec": {
        "serviceAccountName": "notes",
        "containers": [{
            "name": "server", "image": "registry.example/notes:1", "ports": [{"containerPort": 9001}],
            "env": [{"name": f"VARIABLE_{n}", "value": "x" * 40} for n in range(20)],
            "readinessProbe": {"httpGet": {"path": "/healthz", "port": 9001}},
        }],
    },
}


def review(number):
    question = {
        "uid": str(number), "kind": {"group": "", "version": "v1", "kind": "Pod"}, "operation": "CREATE", "namespace": "tools",
        "object": POD,
    }
    return json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": question})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outrigger", required=True, type=pathlib.Path)
    parser.add_argument("--count", type=int, default=300)
    args = parser.parse_args()
    program = str(args.outrigger.resolve())
    with tempfile.TemporaryDirectory() as work:
        run = lambda *words: subprocess.run([program, *words], cwd=work, check=True, capture_output=True, text=True)  # noqa: E731
        run("ca", "init", "--trust-domain", "demo.local", "--dir", "ca")
        run("ca", "issue", "injector", "--host", NAME, "--dir", "ca", "--out", "own")
        files = {"cert": f"{work}/own/injector.pem", "key": f"{work}/own/injector.key"}
        (pathlib.Path(work) / "token").write_text("none")
        settings = {
            "listen": "127.0.0.1:0", "admin": {"listen": "127.0.0.1:0"}, "tls": files,
            "mesh": {"trust_domain": "demo.local", "ca_url": "https://ca.example:8440", "ca_sha256": "ab" * 32},
            # Nobody is there: the pod says itself what it wants.
            "kubernetes": {"native_sidecars": "always", "url": "https://127.0.0.1:1", "ca": f"{work}/ca/ca.pem", "token_file": f"{work}/token"},
            "log": {"level": "error"},
        }
        (pathlib.Path(work) / "inject.yaml").write_text(json.dumps(settings))
        report = pathlib.Path(work) / "report"
        words = [program, "inject", "serve", "--config", "inject.yaml"]
        webhook = subprocess.Popen(words, cwd=work, env=os.environ | {"OUTRIGGER_REPORT": str(report)})
        try:
            while not report.exists():
                if webhook.poll() is not None:
                    raise SystemExit("the webhook has ended")
                time.sleep(0.05)
            measure(json.loads(report.read_text())["webhook"], ssl.create_default_context(cafile=f"{work}/ca/ca.pem"), args.count)
        finally:
            webhook.terminate()
            webhook.wait()


def measure(at, context, count):
    host, _, port = at.partition(":")

    def connection():
        plain = socket.create_connection((host, int(port)), timeout=10)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
        way = http.client.HTTPSConnection(host, int(port), timeout=10)
        # Under the name that the webhook's configuration has.
        way.sock = context.wrap_socket(plain, server_hostname=NAME)
        return way

    def ask(number, way=None):
        begun = time.perf_counter()
        way = way or connection()
        way.request("POST", "/inject", review(number), {"Content-Type": "application/json"})
        answer = json.loads(way.getresponse().read())
        assert answer["response"]["allowed"] and answer["response"]["patch"], answer
        return (time.perf_counter() - begun) * 1000

    kept = connection()
    ask(0, kept)
    for what, times in {
        "on a kept connection": [ask(n, kept) for n in range(count)],
        "with a handshake": [ask(n) for n in range(count)],
    }.items():
        times.sort()
        print(f"{what}: median {statistics.median(times):.2f} ms, 99th percentile {times[int(len(times) * 0.99)]:.2f} ms")


if __name__ == "__main__":
    main()
