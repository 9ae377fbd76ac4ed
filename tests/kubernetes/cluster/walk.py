"""The quickest path of docs/KUBERNETES.md on a node: manifests, a Deployment with an annotation, a call, and restarts under load."""

from __future__ import annotations

import http.client
import json
import subprocess
import threading
import time
from pathlib import Path

import yaml

from control import Broken, Control, eventually
from discovery import ALL, META
from machine import TAG, Machine
from manifests import ROOT, SYSTEM, policy
from mesh import RULE, TOOLS
from webhook import ASKS, RESTRICTED

# Three callers, as fast as they are answered but for a moment.
CALLERS, REST = 3, 0.02
BEFORE, AFTER = 2, 3


def check(control: Control, ours: Path, that):
    machine = Machine(control, ours)
    try:
        walk(control, ours, that)
    finally:
        machine.end()


def walk(control, ours, that):
    mesh(control, ours)
    that("authority, injector and two ingresses are ready, as k8s/README.md has them made", True)
    server(control)
    pods = control.get("pods", "-n", TOOLS, "-l", "app=notes")["items"]
    native = [each["restartPolicy"] for pod in pods for each in pod["spec"]["initContainers"]]
    that("two pods of a Deployment have their native sidecars, at the level `restricted`", native == ["Always"] * 2, native)
    at = control.get("service", "outrigger-ingress", "-n", SYSTEM)["spec"]["clusterIP"]
    token = (control.work / "token").read_text().strip()
    eventually("the server is called", lambda: call(http.client.HTTPConnection(at, 80, timeout=30), token))
    that("the server is called through the Service of the ingresses", True)
    for kind, name, namespace in (("deployment", "notes", TOOLS), ("deployment", "outrigger-ingress", SYSTEM), ("statefulset", "outrigger-ca", SYSTEM)):
        good, lost = under_load(at, token, lambda: restart(control, f"{kind}/{name}", namespace))
        print(f"     {name}: {good} calls while it was restarted", flush=True)
        that(f"a rolling restart of {name} under load loses no call", good and not lost, lost[:5])


def mesh(control, ours):
    overlay = control.work / "node"
    overlay.mkdir()
    settings = {name: yaml.safe_load((ROOT / f"k8s/base/{path}").read_text()) for name, path in (("ca", "authority/ca.yaml"), ("inject", "injector/inject.yaml"))}
    settings["ca"]["kubernetes"]["rules"].append(RULE)
    settings["inject"]["images"] = {"sidecar": f"outrigger-sidecar:{TAG}"}
    for name, value in settings.items():
        (overlay / f"{name}.yaml").write_text(yaml.safe_dump(value))
    up = Path(*[".."] * len(overlay.resolve().parents)) / str(ROOT / "k8s").lstrip("/")
    merged = [{"name": f"outrigger-{part}-settings", "namespace": SYSTEM, "behavior": "merge", "files": [f"{name}.yaml"]}
              for part, name in (("ca", "ca"), ("injector", "inject"))]
    images = [{"name": name, "newTag": TAG} for name in ("outrigger", "outrigger-ingress")]
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump({"resources": [f"{up}/base"], "configMapGenerator": merged, "images": images}))
    disk = control.work / "disk"
    disk.mkdir()
    disk.chmod(0o777)
    control.apply({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "disk"},
                   "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": str(disk)}}})
    control.kubectl("apply", "-k", str(overlay))
    rolled(control, "statefulset/outrigger-ca", SYSTEM)
    shown = control.kubectl("-n", SYSTEM, "exec", "outrigger-ca-0", "--", "/outrigger", "ca", "show", "--dir", "/var/lib/outrigger/ca")
    digest = next(line.split()[-1] for line in shown.splitlines() if line.startswith("ca_sha256"))
    control.kubectl("-n", SYSTEM, "create", "configmap", "outrigger-anchor", f"--from-literal=ca_sha256={digest}")
    words = ["token", "--subject", "me", "--role", "user", "--token-file", "token", "--tokens-file", "tokens.yaml"]
    subprocess.run([ours / "outrigger", *words], cwd=control.work, check=True, capture_output=True)
    control.kubectl("-n", SYSTEM, "create", "secret", "generic", "outrigger-clients", f"--from-file={control.work}/tokens.yaml")
    control.apply(policy(ALL, "all"))
    rolled(control, "deployment/outrigger-injector", SYSTEM)
    rolled(control, "deployment/outrigger-ingress", SYSTEM)
    eventually("there are two ingresses", lambda: control.get("deployment", "outrigger-ingress", "-n", SYSTEM)["status"].get("readyReplicas") == 2)


def server(control):
    container = {"name": "server", "image": f"outrigger:{TAG}", "args": ["example", "vector", "--transport", "http", "--listen", "127.0.0.1:9001"],
                 "ports": [{"containerPort": 9001}], "securityContext": RESTRICTED, "readinessProbe": {"tcpSocket": {"port": 9001}, "periodSeconds": 1}}
    template = {"metadata": {"labels": {"app": "notes"}, "annotations": ASKS}, "spec": {"serviceAccountName": "notes", "containers": [container]}}
    control.apply(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": TOOLS, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "notes", "namespace": TOOLS}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "notes", "namespace": TOOLS},
         "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "notes"}}, "template": template}},
    )
    rolled(control, "deployment/notes", TOOLS)


def rolled(control, what, namespace):
    control.kubectl("-n", namespace, "rollout", "status", what, "--timeout=120s")


def restart(control, what, namespace):
    control.kubectl("-n", namespace, "rollout", "restart", what)
    rolled(control, what, namespace)


def call(way, token):
    """Calls a tool; an error says what came instead of its result."""
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "search", "arguments": {"query": "canoe"}, "_meta": META}}
    headers = {
        "Content-Type": "application/json", "Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": "tools/call", "Mcp-Name": "search", "Authorization": f"Bearer {token}", "Host": "localhost",
    }
    way.request("POST", "/s/notes/mcp", json.dumps(message), headers)
    answer = way.getresponse()
    text = answer.read().decode()
    lines = [line.removeprefix("data:") for line in text.splitlines() if line.startswith("data:")] or [text]
    if "result" not in lines[-1] or "result" not in json.loads(lines[-1]):
        raise Broken(f"HTTP {answer.status}: {text[:300]}")
    return True


def under_load(at, token, act):
    """How many calls went well while something was done, and what became of the others. Each has a connection of its own."""
    over, good, lost = threading.Event(), [], []

    def caller():
        while not over.is_set():
            way = http.client.HTTPConnection(at, 80, timeout=30)
            try:
                good.append(call(way, token))
            except (OSError, http.client.HTTPException, Broken) as error:
                lost.append(repr(error))
            way.close()
            time.sleep(REST)

    callers = [threading.Thread(target=caller) for _ in range(CALLERS)]
    for each in callers:
        each.start()
    time.sleep(BEFORE)
    try:
        act()
        time.sleep(AFTER)
    finally:
        over.set()
        for each in callers:
            each.join()
    return len(good), lost
