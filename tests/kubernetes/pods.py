#!/usr/bin/env python3
"""Injected pods, run for real: `outrigger inject` makes them, and containers that share a network namespace are what a kubelet
would start, in its order, with its probes and its hooks. Authority, API server (for TokenReviews) and ingress are processes here.

    pods.py --work target/compose --subjects target/subjects [--keep-images]

Needs what tests/compose/install.sh gets, and programs that were built before (WORK/programs). Last line: `N passed, M failed`.
"""

from __future__ import annotations

import argparse
import atexit
import concurrent.futures
import http.client
import http.server
import json
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "compose"))
import images  # noqa: E402
from images import docker  # noqa: E402

PATIENCE = 60
NETWORK = f"inj-pods-{os.getpid()}"
DOMAIN = "demo.outrigger.local"
META = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}


class Broken(Exception):
    """Something is not as it should be."""


def eventually(what, look):
    end, seen = time.monotonic() + PATIENCE, None
    while time.monotonic() < end:
        try:
            seen = look()
            if seen:
                return seen
        except (OSError, http.client.HTTPException, subprocess.CalledProcessError, Broken, LookupError) as error:
            seen = error
        time.sleep(0.1)
    raise Broken(f"waited in vain until {what}: {seen!r}")


def page(address, path, timeout=10):
    connection = http.client.HTTPConnection(address, timeout=timeout)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


# ---- a pod, as a kubelet has it -------------------------------------------------------------------------------------


class Pod:
    """Containers in one network namespace. `manifest` is an injected Pod."""

    def __init__(self, manifest, token, directory):
        self.manifest, self.spec = manifest, manifest["spec"]
        self.name = f"{NETWORK}-{manifest['metadata']['name']}"
        self.directory = directory / manifest["metadata"]["name"]
        self.started = []
        self.volumes = {volume["name"]: self.volume(volume, token) for volume in self.spec["volumes"]}
        docker("run", "--detach", "--name", f"{self.name}-pause", "--network", NETWORK, "debian:bookworm-slim", "sleep", "infinity")
        found = json.loads(docker("inspect", f"{self.name}-pause"))[0]
        self.address = found["NetworkSettings"]["Networks"][NETWORK]["IPAddress"]

    def __enter__(self):
        return self

    def __exit__(self, kind, error, _):
        if kind is not None:
            for container in self.started:
                said = subprocess.run(["docker", "logs", f"{self.name}-{container['name']}"], capture_output=True, text=True)
                print(f"---- {container['name']}\n{(said.stdout + said.stderr)[-3000:]}", flush=True)
        names = [f"{self.name}-{container['name']}" for container in self.started] + [f"{self.name}-pause"]
        subprocess.run(["docker", "rm", "--force", "--volumes", *names], capture_output=True)

    def volume(self, volume, token):
        """A directory with what the kubelet would write there."""
        if "hostPath" in volume:
            return volume["hostPath"]["path"]
        path = self.directory / volume["name"]
        path.mkdir(parents=True)
        path.chmod(0o777)
        for source in volume.get("projected", {}).get("sources", []):
            if "serviceAccountToken" in source:
                assert source["serviceAccountToken"]["audience"] == "outrigger"
                (path / source["serviceAccountToken"]["path"]).write_text(token)
            for item in source.get("downwardAPI", {}).get("items", []):
                name = item["fieldRef"]["fieldPath"].removeprefix("metadata.annotations['").removesuffix("']")
                (path / item["path"]).write_text(self.manifest["metadata"]["annotations"][name])
        for file in path.iterdir():
            file.chmod(0o444)
        return path

    def run(self, container, *more):
        context = container.get("securityContext", {})
        words = ["run", *more, "--name", f"{self.name}-{container['name']}", "--network", f"container:{self.name}-pause"]
        # As a kubelet with an older runtime: no capability that a pod has not named stays where ALL are dropped.
        for kind, option in (("drop", "--cap-drop"), ("add", "--cap-add")):
            for capability in context.get("capabilities", {}).get(kind, []):
                words += [option, capability]
        if "runAsUser" in context:
            words += ["--user", f"{context['runAsUser']}:{context.get('runAsGroup', context['runAsUser'])}"]
        if context.get("readOnlyRootFilesystem"):
            words += ["--read-only"]
        if context.get("allowPrivilegeEscalation") is False:
            words += ["--security-opt", "no-new-privileges"]
        if "memory" in container.get("resources", {}).get("limits", {}):
            words += ["--memory", container["resources"]["limits"]["memory"].lower().removesuffix("i")]
        environment = {}
        for variable in container.get("env", []):
            value = variable.get("value", "")
            if "valueFrom" in variable:
                value = {"status.podIP": self.address}.get(variable["valueFrom"]["fieldRef"]["fieldPath"], self.name)
            environment[variable["name"]] = value
        for name, value in environment.items():
            words += ["--env", f"{name}={value}"]
        for mount in container.get("volumeMounts", []):
            mode = ":ro" if mount.get("readOnly") else ""
            words += ["--volume", f"{self.volumes[mount['name']]}:{mount['mountPath']}{mode}"]
        # Kubernetes replaces $(NAME) in commands.
        def expanded(word):
            for name, value in environment.items():
                word = word.replace(f"$({name})", value)
            return word

        command = [expanded(word) for word in container.get("command", [])]
        if command:
            words += ["--entrypoint", command[0]]
        self.started.append(container)
        return docker(*words, container["image"], *command[1:], *[expanded(word) for word in container.get("args", [])])

    def probe(self, probe):
        get = probe["httpGet"]
        status, _ = page(f"{self.address}:{get['port']}", get["path"])
        return 200 <= status < 400

    def start(self):
        """Init containers one after the other, native sidecars until they have begun, then the rest."""
        for container in self.spec.get("initContainers", []):
            if container.get("restartPolicy") == "Always":
                self.run(container, "--detach")
                if "startupProbe" in container:
                    eventually(f"{container['name']} has begun", lambda container=container: self.probe(container["startupProbe"]))
            else:
                self.run(container)
        for container in self.spec["containers"]:
            self.run(container, "--detach")

    def ready(self):
        probes = [it["readinessProbe"] for it in self.spec.get("initContainers", []) + self.spec["containers"] if "readinessProbe" in it]
        for probe in probes:
            eventually(f"{self.name} is ready ({probe})", lambda probe=probe: self.probe(probe))

    def inside(self, *command, user="1000"):
        """A command in the network of the pod, as somebody else than the sidecar; its exit code and what it said."""
        words = ["docker", "run", "--rm", "--network", f"container:{self.name}-pause", "--user", user, "--cap-drop", "ALL"]
        done = subprocess.run([*words, "--entrypoint", command[0], "debian:bookworm-slim", *command[1:]], capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    def hook(self, container):
        stop = container.get("lifecycle", {}).get("preStop", {})
        if "httpGet" in stop:
            page(f"{self.address}:{stop['httpGet']['port']}", stop["httpGet"]["path"], timeout=30)
        if "exec" in stop:
            docker("exec", f"{self.name}-{container['name']}", *stop["exec"]["command"])

    def terminate(self):
        """All hooks at once; then the containers are told to end, each after its own; native sidecars after all others."""
        sidecars = [it for it in self.spec.get("initContainers", []) if it.get("restartPolicy") == "Always"]

        def end(container):
            self.hook(container)
            docker("kill", "--signal", "TERM", f"{self.name}-{container['name']}")
            docker("wait", f"{self.name}-{container['name']}")

        with concurrent.futures.ThreadPoolExecutor() as pool:
            hooks = [pool.submit(self.hook, container) for container in sidecars]
            list(pool.map(end, self.spec["containers"]))
            for hook in hooks:
                hook.result()
        codes = []
        for container in reversed(sidecars):
            docker("kill", "--signal", "TERM", f"{self.name}-{container['name']}")
            codes.append(docker("wait", f"{self.name}-{container['name']}"))
        return codes


# ---- the mesh around it ---------------------------------------------------------------------------------------------


class Mesh:
    """Authority and ingress on the gateway of the pods' network, and an API server that knows their tokens."""

    def __init__(self, programs, directory, gateway):
        self.programs, self.directory, self.gateway = programs, directory, gateway
        self.processes = []
        atexit.register(self.end)
        self.tool("ca", "init", "--trust-domain", DOMAIN, "--dir", "ca")
        self.tool("ca", "init", "--trust-domain", "cluster", "--dir", "cluster")
        self.tool("ca", "issue", "api", "--host", "127.0.0.1", "--dir", "cluster", "--out", "api")
        self.write("own-token", "of-the-authority")
        self.write(
            "ca.yaml",
            f"dir: ca\nlisten: {gateway}:0\nadmin: {{ listen: \"127.0.0.1:0\" }}\nkubernetes:\n  url: https://127.0.0.1:{self.api_server()}\n"
            "  ca: cluster/ca.pem\n  token_file: own-token\n  rules: [ { namespace: tools, service_account: \"*\" } ]\n",
        )
        self.authority = self.start("ca", "outrigger", "ca", "serve", "--config", "ca.yaml")["ca"]
        token = self.tool("ca", "token", "create", "--service", "ingress", "--dir", "ca").strip()
        self.write(
            "policy.yaml",
            "apiVersion: mcpx.io/v1\nkind: SecurityPolicy\nmetadata: { name: all }\nspec:\n  authorization:\n    rules:\n"
            "      - { name: all, services: [\"*\"], capabilities: [\"*\"], requires: [ { anonymous: true } ] }\n",
        )
        self.write(
            "ingress.yaml",
            f"listen: 127.0.0.1:0\nadmin: {{ listen: \"127.0.0.1:0\" }}\nanonymous: true\npolicy: [policy.yaml]\naudit: off\n"
            f"registration: {{ listen: \"{gateway}:0\" }}\nidentity:\n  trust_domain: {DOMAIN}\n"
            f"  enroll: {{ url: \"https://{self.authority}\", token: {token}, ca: ca/ca.pem }}\n",
        )
        self.ingress = self.start("ingress", "outrigger-ingress", "--config", "ingress.yaml")

    def write(self, name, text):
        (self.directory / name).write_text(text)

    def tool(self, *args, **more):
        done = subprocess.run([self.programs / "outrigger", *args], cwd=self.directory, capture_output=True, text=True, **more)
        if done.returncode:
            raise Broken(f"outrigger {' '.join(args)}: {done.stderr}")
        return done.stdout

    def start(self, name, program, *args):
        report, log = self.directory / f"{name}.at", open(self.directory / f"{name}.log", "w")
        process = subprocess.Popen(
            [self.programs / program, *args], cwd=self.directory, stdout=log, stderr=log, env=os.environ | {"OUTRIGGER_REPORT": str(report)}
        )
        self.processes.append(process)

        def listens():
            if process.poll() is not None:
                raise SystemExit(f"{name} ended: {(self.directory / f'{name}.log').read_text()}")
            return report.exists() and json.loads(report.read_text())

        return eventually(f"{name} listens", listens)

    def end(self):
        for process in self.processes:
            process.kill()
            process.wait()

    def api_server(self):
        """Knows `token-of-NAME` as the service account NAME of the namespace `tools`."""

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_POST(self):
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                name = asked["spec"]["token"].strip().removeprefix("token-of-")
                status = {"authenticated": True, "user": {"username": f"system:serviceaccount:tools:{name}"}, "audiences": ["outrigger"]}
                body = json.dumps({"kind": "TokenReview", "status": status}).encode()
                self.send_response(201)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.directory / "api/api.pem", self.directory / "api/api.key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server.server_port

    def inject(self, pod):
        environment = {
            "OUTRIGGER_TRUST_DOMAIN": DOMAIN,
            "OUTRIGGER_CA_URL": f"https://{self.authority}",
            "OUTRIGGER_ENROLL_CA": "ca/ca.pem",
            "OUTRIGGER_INGRESS": self.ingress["registration"],
            "OUTRIGGER_SIDECAR_IMAGE": f"{images.PREFIX}outrigger-sidecar",
            "OUTRIGGER_REDIRECT_IMAGE": f"{images.PREFIX}outrigger-redirect",
        }
        text = self.tool("inject", "-f", "-", input=yaml.safe_dump(pod, sort_keys=False), env=os.environ | environment)
        return yaml.safe_load(text)

    def call(self, service, tool, arguments, timeout=60):
        """What a tool says, called through the ingress."""
        host = self.ingress["mcp"]
        connection = http.client.HTTPConnection(host, timeout=timeout)
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": arguments, "_meta": META}}
        headers = {
            "Content-Type": "application/json", "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": tool,
        }
        try:
            connection.request("POST", f"/s/{service}/mcp", json.dumps(message), headers)
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        lines = [line.removeprefix("data:") for line in text.splitlines() if line.startswith("data:")] or [text]
        try:
            said = json.loads(lines[-1])
        except ValueError:
            raise Broken(f"HTTP {answer.status}: {text[:300]}") from None
        if "result" not in said:
            raise Broken(f"HTTP {answer.status}: {text[:300]}")
        return said["result"]


# ---- what is shown --------------------------------------------------------------------------------------------------

passed = failed = 0


def that(what, holds, detail=""):
    global passed, failed
    passed, failed = passed + bool(holds), failed + (not holds)
    print(f"{'ok  ' if holds else 'FAIL'} {what}{'' if holds else f': {detail}'}", flush=True)


def pod(name, annotations, *words, **more):
    """A pod with the server of tests/compose, which tries every way out."""
    server = {
        "name": "server", "image": f"{images.PREFIX}python", "command": ["python3", "/tests/server.py", *words],
        "securityContext": {"runAsUser": 1000, "runAsGroup": 1000}, "volumeMounts": [{"name": "tests", "mountPath": "/tests", "readOnly": True}],
        **more,
    }
    return {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "tools", "annotations": {"outrigger.dev/inject": "true", **annotations}},
        "spec": {"serviceAccountName": name, "containers": [server], "volumes": [{"name": "tests", "hostPath": {"path": str(HERE.parent / "compose")}}]},
    }


def said(mesh, service, tool, **arguments):
    return mesh.call(service, tool, arguments)["content"][0]["text"]


def outside(gateway):
    """A server that is not in the mesh; its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"hello")

    server = http.server.ThreadingHTTPServer((gateway, 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"{gateway}:{server.server_port}"


def reachable(address):
    try:
        page(address, "/mcp", timeout=3)
        return True
    except OSError:
        return False


def listens(mesh, directory, world):
    """A server that listens on all interfaces, held by rules of the kernel; ended in the middle of a call."""
    probe = {"tcpSocket": {"port": 9001}, "periodSeconds": 1}
    manifest = pod(
        "listens", {"outrigger.dev/egress": "redirect", "outrigger.dev/egress-allow": "allowed.example"}, "--port", "9001",
        ports=[{"containerPort": 9001}], readinessProbe=probe, securityContext={"runAsUser": 1000},
    )
    with Pod(mesh.inject(manifest), "token-of-listens", directory) as it:
        it.start()
        it.ready()
        that("an HTTP server becomes ready by probes through its sidecar", True)
        eventually("the ingress knows it", lambda: said(mesh, "listens", "slow", seconds=0) == "finished")
        that("it is called through the ingress", True)
        that("its own port is closed to others", not reachable(f"{it.address}:9001"))
        got = said(mesh, "listens", "get", url=f"http://{world}/")
        that("what it dials is refused", not got.startswith("out: hello"), got)
        code, text = it.inside("bash", "-c", f"exec 3<>/dev/tcp/{world.replace(':', '/')}; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3")
        that("also what somebody else in the pod dials", "hello" not in text, text)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            before = docker("logs", f"{it.name}-server", stderr=subprocess.STDOUT).count("begun")
            call = pool.submit(said, mesh, "listens", "slow", seconds=4)
            eventually("the call is at work", lambda: docker("logs", f"{it.name}-server", stderr=subprocess.STDOUT).count("begun") > before)
            codes = it.terminate()
            that("a call at work when its pod ends is finished", call.result() == "finished")
            that("and the sidecar ends well, last", codes == ["0"], codes)


def speaks(mesh, directory, world):
    """A stdio server in an image that knows nothing of a sidecar."""
    manifest = pod("speaks", {"outrigger.dev/transport": "stdio", "outrigger.dev/egress-allow": "allowed.example"})
    with Pod(mesh.inject(manifest), "token-of-speaks", directory) as it:
        it.start()
        it.ready()
        eventually("the ingress knows it", lambda: said(mesh, "speaks", "slow", seconds=0) == "finished")
        that("a stdio server is a service of the mesh", True)
        got = said(mesh, "speaks", "get", url=f"http://{world}/", proxied=True)
        that("what it dials by its proxy is refused", got.startswith("refused"), got)
        with concurrent.futures.ThreadPoolExecutor() as pool:
            log = lambda: docker("logs", f"{it.name}-server", stderr=subprocess.STDOUT).count("begun")  # noqa: E731
            before = log()
            call = pool.submit(said, mesh, "speaks", "slow", seconds=4)
            eventually("the call is at work", lambda: log() > before)
            it.terminate()
            that("a call at work when its pod ends is finished", call.result() == "finished")


def unknown(mesh, directory, _):
    """A pod whose service account the authority does not take for this service."""
    manifest = pod("unknown", {"outrigger.dev/service": "other", "outrigger.dev/transport": "stdio"})
    with Pod(mesh.inject(manifest), "token-of-unknown", directory) as it:
        it.start()
        waits = eventually("it says what it waits for", lambda: "because" in (text := page(f"{it.address}:15020", "/readyz")[1]) and text)
        that("a sidecar that gets no certificate says why", "name_refused" in waits or "unknown" in waits, waits)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--subjects", type=Path, required=True)
    parser.add_argument("--keep-images", action="store_true", help="those of a run before")
    parser.add_argument("--prefix", default=images.PREFIX, help="before the names of the images")
    args = parser.parse_args()
    images.PREFIX = args.prefix
    work = args.work.resolve()
    if not args.keep_images:
        images.ours(work / "programs", work)
        if not docker("images", "--quiet", f"{images.PREFIX}python"):
            images.python(args.subjects.resolve() / "venv", work)
    docker("network", "create", NETWORK)
    atexit.register(subprocess.run, ["docker", "network", "rm", NETWORK], capture_output=True)
    gateway = json.loads(docker("network", "inspect", NETWORK))[0]["IPAM"]["Config"][0]["Gateway"]
    directory = Path(tempfile.mkdtemp(prefix="outrigger-pods-"))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    # The containers' users read what is mounted from there.
    directory.chmod(0o755)
    mesh = Mesh(work / "programs", directory, gateway)
    world = outside(gateway)
    for stage in (listens, speaks, unknown):
        try:
            stage(mesh, directory / "pods", world)
        except Exception as error:  # noqa: BLE001 - the other stages can still say something
            that(f"`{stage.__name__}` went through", False, repr(error))
            for log in sorted(directory.glob("*.log")):
                print(f"---- {log.name}\n{log.read_text()[-2000:]}", flush=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
