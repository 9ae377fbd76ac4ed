"""An API server and its etcd as processes of ours, and what is asked of them with kubectl."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import time
from pathlib import Path

import yaml

# The first address of the services' range is that of the API server itself. Nothing here translates addresses of services: it
# listens at that one, and at its port.
SERVICES, ADDRESS = "10.96.0.0/16", "10.96.0.1"
URL = f"https://{ADDRESS}:443"
# Of the machine, as pods see it.
NODE = "10.244.0.1"
ETCD = "http://127.0.0.1:2379"
PATIENCE = 40


class Broken(Exception):
    """Something is not as it should be."""


def eventually(what, look, patience=PATIENCE):
    """What `look` says once it is something."""
    end, seen = time.monotonic() + patience, None
    while time.monotonic() < end:
        try:
            seen = look()
            if seen:
                return seen
        except (OSError, Broken, LookupError, ValueError) as error:
            seen = error
        time.sleep(0.1)
    raise Broken(f"waited in vain until {what}: {seen!r}")


def sh(*words):
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise Broken(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def network():
    """What every process has, in the network namespace of this test: the API server's address, and a bridge for pods."""
    sh("ip", "link", "set", "lo", "up")
    sh("ip", "address", "add", f"{ADDRESS}/32", "dev", "lo")
    # An address of its own: otherwise it has that of a pod, and others do not find it for a while when that one ends.
    sh("ip", "link", "add", "pods", "address", "02:00:00:00:00:01", "type", "bridge")
    sh("ip", "address", "add", f"{NODE}/24", "dev", "pods")
    sh("ip", "link", "set", "pods", "up")


class Control:
    """The control plane, as far as there is one: nothing schedules, and nothing makes pods of Deployments."""

    def __init__(self, programs: Path, kubectl: str, work: Path):
        self.programs, self.program, self.work = programs, kubectl, work
        self.running: dict[str, subprocess.Popen] = {}
        self.admin = secrets.token_hex(16)
        self.ca = work / "kube/ca.pem"
        self.audit = work / "kube/audit.jsonl"
        self.config = work / "kube/config"
        self.make_files()

    def make_files(self):
        home = self.work / "kube"
        home.mkdir()

        def openssl(*words):
            subprocess.run(["openssl", *words], cwd=home, check=True, capture_output=True)

        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        openssl("req", "-x509", *key, "-subj", "/CN=cluster", "-keyout", "ca.key", "-out", "ca.pem",
                "-addext", "keyUsage=critical,keyCertSign")
        names = f"subjectAltName=DNS:kubernetes.default.svc,IP:{ADDRESS},IP:127.0.0.1"
        openssl("req", "-x509", *key, "-subj", "/CN=api", "-keyout", "api.key", "-out", "api.pem", "-CA", "ca.pem", "-CAkey", "ca.key",
                "-addext", names, "-addext", "basicConstraints=critical,CA:FALSE", "-addext", "extendedKeyUsage=serverAuth")
        openssl("genrsa", "-out", "accounts.key", "2048")
        (home / "tokens.csv").write_text(f'{self.admin},admin,admin,"system:masters"\n')
        # Who asked for what, and was it allowed: without the questions of the API server to itself.
        policy = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
                  "rules": [{"level": "Metadata", "userGroups": ["system:serviceaccounts"]}, {"level": "None"}]}
        (home / "audit.yaml").write_text(yaml.safe_dump(policy))
        cluster = {"server": URL, "certificate-authority": str(self.ca)}
        self.config.write_text(yaml.safe_dump({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}], "users": [{"name": "admin", "user": {"token": self.admin}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
        }))

    # ---- processes

    def spawn(self, name, *words, program=None):
        log = open(self.work / f"{name}.log", "a")
        self.running[name] = subprocess.Popen(
            [program or self.programs / name, *words], cwd=self.work, stdout=log, stderr=log, start_new_session=True
        )

    def end(self, name, signal=15):
        process = self.running.pop(name)
        process.send_signal(signal)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def start(self):
        self.spawn("etcd", "--data-dir", str(self.work / "etcd"), "--listen-client-urls", ETCD, "--advertise-client-urls", ETCD,
                   "--listen-peer-urls", "http://127.0.0.1:2380", "--log-level", "warn")
        self.start_api_server()

    def start_api_server(self):
        home = self.work / "kube"
        self.spawn(
            "kube-apiserver", f"--etcd-servers={ETCD}", "--bind-address=0.0.0.0", "--secure-port=443", f"--advertise-address={NODE}",
            f"--service-cluster-ip-range={SERVICES}", f"--tls-cert-file={home}/api.pem", f"--tls-private-key-file={home}/api.key",
            f"--token-auth-file={home}/tokens.csv", "--authorization-mode=Node,RBAC", "--anonymous-auth=false",
            "--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={home}/accounts.key",
            f"--service-account-signing-key-file={home}/accounts.key", f"--audit-policy-file={home}/audit.yaml",
            f"--audit-log-path={self.audit}", "--allow-privileged=true", f"--client-ca-file={self.ca}",
            # Webhooks are asked at the endpoints of their Service, since nothing here translates addresses of services.
            "--enable-aggregator-routing=true", "--request-timeout=60s", "--kubelet-preferred-address-types=InternalIP",
        )
        eventually("the API server is ready", self.is_ready, patience=180)

    def is_ready(self):
        process = self.running["kube-apiserver"]
        if process.poll() is not None:
            raise SystemExit(f"the API server has ended: {(self.work / 'kube-apiserver.log').read_text()[-3000:]}")
        return self.ask("get", "--raw", "/readyz").stdout == "ok"

    def end_all(self):
        for name in list(self.running)[::-1]:
            self.end(name)

    # ---- questions

    def ask(self, *words, text=None):
        """What kubectl says: whether it went well, and its words."""
        done = [self.program, f"--kubeconfig={self.config}", "--cache-dir", str(self.work / "cache"), *words]
        return subprocess.run(done, input=text, capture_output=True, text=True, env=os.environ | {"KUBECTL_COMMAND_HEADERS": "false"})

    def kubectl(self, *words, text=None):
        done = self.ask(*words, text=text)
        if done.returncode:
            raise Broken(f"kubectl {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def get(self, *words):
        return json.loads(self.kubectl("get", "-o", "json", *words))

    def create(self, *objects, words=()):
        """Creates objects as a person does, and gives back what the API server has made of them."""
        out = self.kubectl("create", "-o", "json", "-f", "-", *words, text=listed(objects))
        made = json.loads(out)
        return made["items"] if made["kind"] == "List" else [made]

    def refused(self, *objects, words=("--dry-run=server",)):
        """Why the API server does not want these, or nothing."""
        done = self.ask("create", "-f", "-", *words, text=listed(objects))
        return done.stderr.strip() if done.returncode else ""

    def apply(self, *objects, words=()):
        return self.kubectl("apply", "-f", "-", *words, text=listed(objects))

    def token(self, namespace, account, *words):
        return self.kubectl("create", "token", "-n", namespace, account, *words).strip()

    def asked(self):
        """Each question of a service account: account, verb, group, resource, name and code."""
        for line in self.audit.read_text().splitlines():
            event = json.loads(line)
            on = event.get("objectRef", {})
            resource = "/".join(filter(None, [on.get("resource"), on.get("subresource")]))
            account = event["user"]["username"].removeprefix("system:serviceaccount:")
            code = event.get("responseStatus", {}).get("code")
            yield account, event["verb"], on.get("apiGroup", ""), resource, on.get("name"), code, event["requestURI"]


def listed(objects):
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)} if len(objects) != 1 else objects[0])
