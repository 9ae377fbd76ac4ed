"""Pods of the API server as processes: each in a network namespace, with the volumes, variables and the user that its spec says.

What a kubelet does and nothing here needs is left out: images, cgroups, probes. Programs come from this machine.
"""

from __future__ import annotations

import base64
import http.client
import ipaddress
import os
import re
import shlex
import subprocess
from pathlib import Path

from control import ADDRESS, NODE, Broken, Control, sh

ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
# What programs that are not linked statically need of this machine, and servers in Python.
MACHINE = ["usr", "lib", "lib64", "bin"]


class Node:
    """One machine: a bridge with the addresses of pods, and names for Services."""

    def __init__(self, control: Control, images: dict[str, list[str]], outrigger: Path):
        # What each image is here: words between our program and the arguments of a container.
        self.control, self.images, self.outrigger, self.work = control, images, outrigger, control.work
        self.pods: dict[str, Pod] = {}
        self.free = ipaddress.ip_address(NODE) + 1
        # By name; a Service without an address of its own has those of its pods.
        self.names = {"kubernetes.default.svc": ADDRESS}

    def pod(self, pod):
        """A pod that the API server has (`pod`: the object), with its volumes."""
        it = Pod(self, pod, str(self.free))
        self.free += 1
        self.pods[it.name] = it
        return it

    def run(self, pod):
        it = self.pod(pod)
        it.start()
        return it

    def end_all(self):
        for pod in self.pods.values():
            pod.end()

    def hosts(self):
        return "127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for name, address in self.names.items())


class Pod:
    """Its containers, that are processes."""

    def __init__(self, node: Node, pod: dict, address: str):
        self.node, self.address = node, address
        self.meta, self.spec = pod["metadata"], pod["spec"]
        self.name, self.namespace = self.meta["name"], self.meta["namespace"]
        self.home = node.work / "pods" / f"{self.namespace}.{self.name}"
        self.processes: dict[str, subprocess.Popen] = {}
        self.pause = subprocess.Popen(["unshare", "--net", "sleep", "infinity"], stdout=subprocess.DEVNULL, start_new_session=True)
        self.connect()
        self.volumes = {volume["name"]: self.volume(volume) for volume in self.spec.get("volumes", [])}

    def connect(self):
        own = Path("/proc/self/ns/net").readlink()
        while Path(f"/proc/{self.pause.pid}/ns/net").readlink() == own:
            if self.pause.poll() is not None:
                raise Broken("a network namespace cannot be made")
        inside = f"p{self.address.rpartition('.')[2]}"
        sh("ip", "link", "add", inside, "type", "veth", "peer", "name", "eth0", "netns", str(self.pause.pid))
        sh("ip", "link", "set", inside, "master", "pods", "up")
        enter = ["nsenter", f"--net=/proc/{self.pause.pid}/ns/net", "ip"]
        sh(*enter, "link", "set", "lo", "up")
        sh(*enter, "address", "add", f"{self.address}/24", "dev", "eth0")
        sh(*enter, "link", "set", "eth0", "up")
        sh(*enter, "route", "add", "default", "via", NODE)

    # ---- volumes

    def volume(self, volume):
        """A directory with what a kubelet would put there."""
        path = self.home / "volumes" / volume["name"]
        path.mkdir(parents=True)
        group = self.spec.get("securityContext", {}).get("fsGroup", 0)
        mode = 0o644
        if "configMap" in volume:
            self.fill(path, "configmap", volume["configMap"]["name"])
        elif "secret" in volume:
            self.fill(path, "secret", volume["secret"]["secretName"])
            mode = volume["secret"].get("defaultMode", mode)
        elif "projected" in volume:
            mode = volume["projected"].get("defaultMode", mode)
            for source in volume["projected"]["sources"]:
                self.project(path, source)
        elif not {"emptyDir", "persistentVolumeClaim"} & set(volume):
            raise Broken(f"nobody here knows the volume {volume}")
        for file in path.iterdir():
            file.chmod(mode)
            os.chown(file, 0, group)
        path.chmod(0o777)
        return path

    def fill(self, path, kind, name):
        for key, value in self.node.control.get(kind, name, "-n", self.namespace).get("data", {}).items():
            (path / key).write_bytes(base64.b64decode(value) if kind == "secret" else value.encode())

    def project(self, path, source):
        if "serviceAccountToken" in source:
            wanted = source["serviceAccountToken"]
            words = ["--bound-object-kind=Pod", f"--bound-object-name={self.name}", f"--bound-object-uid={self.meta['uid']}",
                     f"--duration={wanted['expirationSeconds']}s"]
            if "audience" in wanted:
                words.append(f"--audience={wanted['audience']}")
            token = self.node.control.token(self.namespace, self.spec["serviceAccountName"], *words)
            (path / wanted["path"]).write_text(token)
        elif "configMap" in source:
            name = source["configMap"]["name"]
            # Distributions add some of their own, which controllers write that are not here.
            if not self.node.control.ask("get", "configmap", name, "-n", self.namespace).returncode:
                self.fill(path, "configmap", name)
        else:
            for item in source["downwardAPI"]["items"]:
                (path / item["path"]).write_text(self.field(item["fieldRef"]["fieldPath"]))

    def field(self, path):
        found = re.fullmatch(r"metadata\.(annotations|labels)\['(.*)'\]", path)
        if found:
            return self.meta[found[1]][found[2]]
        return {"metadata.namespace": self.namespace, "metadata.name": self.name, "status.podIP": self.address}[path]

    # ---- processes

    def start(self, name=None):
        sidecars = [each for each in self.spec.get("initContainers", []) if each.get("restartPolicy") == "Always"]
        for container in sidecars + self.spec["containers"]:
            if name in (None, container["name"]):
                self.start_container(container)

    def environment(self, container):
        out = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        for variable in container.get("env", []):
            value, of = variable.get("value", ""), variable.get("valueFrom", {})
            if "fieldRef" in of:
                value = self.field(of["fieldRef"]["fieldPath"])
            elif "configMapKeyRef" in of:
                of = of["configMapKeyRef"]
                value = self.node.control.get("configmap", of["name"], "-n", self.namespace)["data"][of["key"]]
            out[variable["name"]] = value
        return out

    def start_container(self, container):
        name, root = container["name"], self.home / "roots" / container["name"]
        (root / "etc").mkdir(parents=True, exist_ok=True)
        (root / "etc/hosts").write_text(self.node.hosts())
        (root / "etc/nsswitch.conf").write_text("hosts: files\n")
        (root / "etc/resolv.conf").write_text("")
        steps = []

        def bind(source, at, read_only=True):
            inside = root / at.lstrip("/")
            if Path(source).is_dir():
                inside.mkdir(parents=True, exist_ok=True)
            else:
                inside.parent.mkdir(parents=True, exist_ok=True)
                inside.touch()
            steps.append(f"mount --bind {shlex.quote(str(source))} {shlex.quote(str(inside))}")
            if read_only:
                steps.append(f"mount -o remount,bind,ro {shlex.quote(str(inside))}")

        for directory in MACHINE:
            if (Path("/") / directory).is_dir():
                bind(Path("/") / directory, directory)
        bind(self.node.outrigger, "/outrigger")
        mounts = sorted(container.get("volumeMounts", []), key=lambda each: each["mountPath"])
        for mount in mounts:
            # What is mounted inside of another volume finds a directory there, as a kubelet sees to it.
            for other in mounts:
                if other["mountPath"].startswith(f"{mount['mountPath']}/"):
                    inside = other["mountPath"].removeprefix(f"{mount['mountPath']}/")
                    (self.volumes[mount["name"]] / inside).mkdir(parents=True, exist_ok=True)
            bind(self.volumes[mount["name"]], mount["mountPath"], mount.get("readOnly", False))
        (root / "dev").mkdir(exist_ok=True)
        for device in ("null", "urandom"):
            bind(f"/dev/{device}", f"dev/{device}", False)
        words = ["/outrigger", *self.node.images[container["image"]], *container.get("command", []), *container.get("args", [])]
        environment = self.environment(container)
        # $(NAME) in commands is replaced.
        words = [re.sub(r"\$\((\w+)\)", lambda found: environment.get(found[1], found[0]), word) for word in words]
        context = self.spec.get("securityContext", {}) | container.get("securityContext", {})
        user = f"{context.get('runAsUser', 65534)}:{context.get('runAsGroup', 65534)}"
        groups = f"--groups={context['fsGroup']}" if "fsGroup" in context else "--groups="
        steps.append(f"exec chroot --userspec={user} {groups} {shlex.quote(str(root))} {shlex.join(words)}")
        log = open(self.home / f"{name}.log", "a")
        enter = ["nsenter", f"--net=/proc/{self.pause.pid}/ns/net", "unshare", "--mount", "sh", "-ec", "\n".join(steps)]
        self.processes[name] = subprocess.Popen(
            enter, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
        )

    def log(self, name=None):
        return (self.home / f"{name or next(iter(self.processes))}.log").read_text()

    def stop(self, name, signal=15):
        process = self.processes.pop(name)
        process.send_signal(signal)
        try:
            return process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise Broken(f"{name} of {self.name} does not end") from None

    def end(self):
        for process in self.processes.values():
            process.kill()
            process.wait()
        self.processes.clear()
        self.pause.kill()
        self.pause.wait()

    def page(self, port, path):
        connection = http.client.HTTPConnection(self.address, port, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def ready(self, port):
        for name, process in self.processes.items():
            if process.poll() is not None:
                raise SystemExit(f"{name} of {self.name} has ended: {self.log(name)[-3000:]}")
        status, text = self.page(port, "/readyz")
        if status != 200:
            raise Broken(text)
        return True

    def metrics(self, port):
        status, text = self.page(port, "/metrics")
        return text


def slice_of(service, namespace, port, name, addresses, ready=True, **conditions):
    """An EndpointSlice, as the controller of a cluster writes one."""
    return {
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": f"{service}-test", "namespace": namespace, "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"name": name, "port": port, "protocol": "TCP"}],
        "endpoints": [{"addresses": [each], "conditions": {"ready": ready, **conditions}} for each in addresses],
    }
