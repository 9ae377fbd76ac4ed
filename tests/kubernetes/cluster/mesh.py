"""The parts of the mesh, as pods of the manifests: authority, injector and ingress, each with its own service account."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path

import yaml

from control import Control, eventually
from manifests import ROOT, SYSTEM, account_files, established, pod_of
from node import Node, Pod, slice_of

TOOLS = "tools"
# Ports of the programs' own health and metrics.
ADMIN = {"outrigger-ca": 9440, "outrigger-injector": 9444, "outrigger-ingress": 9090}
KINDS = {"outrigger-ca": "statefulset", "outrigger-injector": "deployment", "outrigger-ingress": "deployment"}
# What an overlay of people adds: which service accounts are which services.
RULE = {"namespace": TOOLS, "service_account": "*"}


class Mesh:
    """Begins as k8s/README.md does."""

    def __init__(self, control: Control, outrigger: Path):
        self.control, self.outrigger, self.work = control, outrigger, control.work
        images = {"outrigger:latest": [], "outrigger-ingress:latest": ["ingress"], "outrigger-sidecar:0.1.0": ["sidecar"]}
        self.node = Node(control, images, outrigger)
        self.parts: dict[str, Pod] = {}
        self.apply()
        self.start("outrigger-ca")
        self.node.names["outrigger-ca.outrigger-system.svc"] = self.parts["outrigger-ca"].address
        self.by_hand()

    def apply(self):
        """The base and what an overlay says of the authority's rules."""
        overlay = self.work / "overlay"
        overlay.mkdir(exist_ok=True)
        settings = yaml.safe_load((ROOT / "k8s/base/authority/ca.yaml").read_text())
        settings["kubernetes"]["rules"].append(RULE)
        (overlay / "ca.yaml").write_text(yaml.safe_dump(settings))
        up = Path(*[".."] * len(overlay.resolve().parents)) / str(ROOT / "k8s").lstrip("/")
        more = {"name": "outrigger-ca-settings", "namespace": SYSTEM, "behavior": "merge", "files": ["ca.yaml"]}
        text = {"resources": [f"{up}/base"], "components": [f"{up}/components/discovery"], "configMapGenerator": [more]}
        (overlay / "kustomization.yaml").write_text(yaml.safe_dump(text))
        self.control.kubectl("apply", "-k", str(overlay))
        for name in ("meshservices", "securitypolicies"):
            eventually(f"{name} are known", lambda name=name: established(self.control, f"{name}.mcpx.io"))
        account_files(self.control, SYSTEM)

    def by_hand(self):
        """The two things that people make."""
        data = self.node.pods["outrigger-ca-0"].volumes["data"]
        shown = eventually("the authority has made itself", lambda: (data / "ca/ca.pem").exists() and self.tool("ca", "show", "--dir", str(data / "ca")))
        digest = next(line.split()[-1] for line in shown.splitlines() if line.startswith("ca_sha256"))
        self.tool("token", "--subject", "me", "--role", "user", "--token-file", "token", "--tokens-file", "tokens.yaml")
        secret = {"tokens.yaml": base64.b64encode((self.work / "tokens.yaml").read_bytes()).decode()}
        self.control.apply(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "outrigger-anchor", "namespace": SYSTEM}, "data": {"ca_sha256": digest}},
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "outrigger-clients", "namespace": SYSTEM}, "data": secret},
        )

    def tool(self, *words):
        return subprocess.run([self.outrigger, *words], cwd=self.work, capture_output=True, text=True, check=True).stdout

    def start(self, name):
        """A pod of it, with the rights of its account; ready is another matter."""
        workload = self.control.get(KINDS[name], name, "-n", SYSTEM)
        number = sum(pod.startswith(name) for pod in self.node.pods)
        (made,) = self.control.create(pod_of(workload, f"{name}-{number}"))
        self.parts[name] = self.node.run(made)
        return self.parts[name]

    def end(self, name):
        pod = self.parts.pop(name)
        pod.end()
        self.control.kubectl("delete", "pod", "-n", SYSTEM, pod.name, "--grace-period=0", "--force")

    def ready(self, name):
        eventually(f"{name} is ready", lambda: self.parts[name].ready(ADMIN[name]))

    def publish(self, service, port, port_name, *pods, namespace=SYSTEM):
        """The endpoints of a Service, as controllers of a cluster would write them."""
        self.control.apply(slice_of(service, namespace, port, port_name, [pod.address for pod in pods]))

    def injector(self):
        """The injector, ready to be asked."""
        self.start("outrigger-injector")
        self.ready("outrigger-injector")
        self.publish("outrigger-injector", 9443, "webhook", self.parts["outrigger-injector"])

    def namespace(self, name, *accounts, labels=None, annotations=None):
        self.control.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels or {}, "annotations": annotations or {}}})
        account_files(self.control, name)
        for account in accounts:
            self.control.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account, "namespace": name}})
