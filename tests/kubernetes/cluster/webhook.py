"""The injector as an API server meets it: asked by its Service, believed by the caBundle that it keeps itself, with the rights of the
manifests alone."""

from __future__ import annotations

import base64
import copy
import http.client
import http.server
import json
import ssl
import statistics
import threading
import time

import yaml

from control import ADDRESS, NODE, Control, eventually
from manifests import ROOT, SYSTEM, warned
from mesh import ADMIN, TOOLS, Mesh

INJECTOR = "outrigger-injector"
SIDECAR = "outrigger-sidecar"
ASKS = {"outrigger.dev/inject": "true"}
RESTRICTED = {
    "runAsNonRoot": True, "runAsUser": 1000, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def pod(name="one", namespace=TOOLS, annotations=ASKS, account="notes", **container):
    server = {"name": "server", "image": "registry.example/notes:1", "ports": [{"containerPort": 9001}], **container}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace, "annotations": annotations},
            "spec": {"serviceAccountName": account, "containers": [server]}}


def sidecars(made):
    spec = made["spec"]
    return [each["name"] for each in spec.get("initContainers", []) + spec["containers"]].count(SIDECAR)


def check(mesh: Mesh, that):
    control = mesh.control
    mesh.namespace(TOOLS, "notes")
    absent(control, that, "before there is an injector")
    mesh.injector()
    bundle(mesh, that)
    injection(control, that)
    given(control, that)
    exempt(mesh, that)
    levels(mesh, that)
    reinvocation(control, that)
    applied_anew(mesh, that)
    rotation(mesh, that)
    cost(control)
    denied(mesh, that)
    mesh.end(INJECTOR)
    absent(control, that, "while the injector is away")
    ignored(control, that)
    mesh.injector()
    eventually("it injects again", lambda: sidecars(control.create(pod(), words=["--dry-run=server"])[0]))


def bundles(control):
    configuration = control.get("mutatingwebhookconfiguration", INJECTOR)
    return [base64.b64decode(each["clientConfig"].get("caBundle", "")).decode() for each in configuration["webhooks"]]


def bundle(mesh, that):
    roots = (mesh.parts["outrigger-ca"].volumes["data"] / "ca/ca.pem").read_text().strip()
    found = bundles(mesh.control)
    that("the injector writes the authority's roots into both webhooks", [each.strip() for each in found] == [roots] * 2, found)


def injection(control, that):
    """Asked for by the pod, by its label, by the namespace; and not at all."""
    (made,) = control.create(pod())
    that("a pod that asks has its sidecar", sidecars(made) == 1, made)
    that("as an init container that goes on", made["spec"]["initContainers"][-1].get("restartPolicy") == "Always", made["spec"])
    that("and the label for selectors", made["metadata"]["labels"].get("outrigger.dev/service") == "notes", made["metadata"])
    again = {key: made[key] for key in ("apiVersion", "kind", "spec")}
    again["metadata"] = {key: made["metadata"][key] for key in ("namespace", "annotations", "labels")} | {"name": "again"}
    (twice,) = control.create(again, words=["--dry-run=server"])
    that("what is injected already stays as it is", twice["spec"] == made["spec"], twice["spec"])
    labelled = pod(annotations={}, name="label")
    labelled["metadata"]["labels"] = ASKS
    (made,) = control.create(labelled, words=["--dry-run=server"])
    that("a label asks as well", sidecars(made) == 1, made["spec"])
    (made,) = control.create(pod(name="yes", annotations={"outrigger.dev/inject": "yes"}), words=["--dry-run=server"])
    that("every word that means yes does", sidecars(made) == 1, made["spec"])
    (made,) = control.create(pod(annotations={}, name="silent"), words=["--dry-run=server"])
    that("a pod that does not ask has none", sidecars(made) == 0, made["spec"])
    control.kubectl("delete", "pod", "-n", TOOLS, "one", "--grace-period=0", "--force")
    wrong = control.refused(pod(annotations={**ASKS, "outrigger.dev/prot": "9001"}))
    that("a misspelled annotation is refused, and the message says which", "no sidecar for this pod" in wrong and "outrigger.dev/prot" in wrong, wrong)


def pods_of(each):
    """The pods that a document comes to."""
    if each["kind"] == "List":
        return [pod for one in each["items"] for pod in pods_of(one)]
    template = each
    if each["kind"] == "CronJob":
        template = each["spec"]["jobTemplate"]["spec"]["template"]
    elif each["kind"] in ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job"):
        template = each["spec"].get("template")
    elif each["kind"] != "Pod":
        return []
    if not isinstance(template, dict):
        return []
    meta = copy.deepcopy(template.get("metadata") or {})
    meta = {**meta, "name": "given", "namespace": TOOLS}
    spec = copy.deepcopy(template.get("spec") or {})
    # A claim for volumes, and what only some kinds may say.
    if each["kind"] in ("Job", "CronJob"):
        spec.setdefault("restartPolicy", "Never")
    return [{"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}]


def given(control, that):
    """The inputs of `outrigger inject -f`: the API server takes what comes of them, and what is refused there is refused here."""
    directory = ROOT / "tests/kubernetes/inject"
    for path in [*sorted(directory.glob("*.yaml")), *sorted((directory / "refused").glob("*.yaml"))]:
        for one in (pod for each in yaml.safe_load_all(path.read_text()) if each for pod in pods_of(each)):
            prepare(control, one)
            done = control.ask("create", "--dry-run=server", "-o", "json", "-f", "-", text=json.dumps(one))
            if path.parent == directory:
                words = [one["metadata"].get(each, {}).get("outrigger.dev/inject") for each in ("annotations", "labels")]
                asks = any(word in ("true", "enabled", "yes") for word in words)
                has = done.returncode == 0 and "outrigger.dev/injected" in json.loads(done.stdout)["metadata"].get("annotations", {})
                that(f"{path.name}: {'the injected pod is' if asks else 'a pod without a sidecar is'} accepted", done.returncode == 0 and has == asks, done.stderr)
            else:
                # The first line says why; where kubectl itself cannot read it, nobody is asked.
                why = (path.parent / "expected" / f"{path.stem}.txt").read_text().splitlines()[0].partition("pod/fs: ")[2]
                same = f"no sidecar for this pod: {why}" in done.stderr or "cannot unmarshal" in done.stderr
                that(f"refused/{path.name}: it is refused, in the words of `outrigger inject -f`", done.returncode and same, done.stderr or "it was created")


def prepare(control, one):
    """What a pod needs in this namespace that its document did not bring: its account, and volumes of claims."""
    account = one["spec"].get("serviceAccountName", "default")
    control.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account, "namespace": TOOLS}})
    volumes = one["spec"].setdefault("volumes", [])
    mounted = {mount["name"] for each in one["spec"].get("containers") or [] for mount in each.get("volumeMounts", [])}
    volumes.extend({"name": name, "emptyDir": {}} for name in mounted - {each["name"] for each in volumes})


def exempt(mesh, that):
    """Namespaces that are left alone, and one that asks for all of its pods."""
    control = mesh.control
    mesh.namespace("everything", "notes", labels=ASKS, annotations={"outrigger.dev/log-level": "debug"})
    (made,) = control.create(pod(namespace="everything", annotations={}), words=["--dry-run=server"])
    variables = {each["name"]: each.get("value") for each in made["spec"]["initContainers"][-1]["env"]}
    that("a namespace asks for its pods, and its annotations count", variables.get("OUTRIGGER_LOG") == "debug", variables)
    (made,) = control.create(pod(namespace="everything", annotations={"outrigger.dev/inject": "false"}), words=["--dry-run=server"])
    that("a pod may say no", sidecars(made) == 0, made["spec"])
    mesh.namespace("maybe", "notes", labels={"outrigger.dev/inject": "maybe"})
    said = control.refused(pod(namespace="maybe", annotations={}))
    that("a namespace with a word that is no answer has no pods without a sidecar", "no sidecar for this pod" in said, said)
    mesh.namespace("kube-system", "notes")
    (made,) = control.create(pod(namespace="kube-system"), words=["--dry-run=server"])
    that("pods of kube-system are left alone although they ask", sidecars(made) == 0, made["spec"])


def levels(mesh, that):
    """Pod Security, which looks at a pod after the webhook."""
    control = mesh.control
    for level in ("restricted", "privileged"):
        mesh.namespace(level, "notes", labels={f"pod-security.kubernetes.io/{mode}": level for mode in ("enforce", "warn")})
    for what, annotations, container in (
        ("an HTTP server", ASKS, {}),
        ("a stdio server", {**ASKS, "outrigger.dev/transport": "stdio"}, {"command": ["/server"], "ports": []}),
        ("one whose egress goes by its proxy", {**ASKS, "outrigger.dev/egress-allow": "api.example.com"}, {}),
    ):
        asked = pod(namespace="restricted", annotations=annotations, securityContext=RESTRICTED, **container)
        done = control.ask("create", "--dry-run=server", "-o", "json", "-f", "-", text=json.dumps(asked))
        that(f"{what} is created with its sidecar at the level `restricted`", done.returncode == 0 and SIDECAR in done.stdout and not warned(done), done.stderr)
    redirected = {**ASKS, "outrigger.dev/egress": "redirect"}
    said = control.refused(pod(namespace="restricted", annotations=redirected, securityContext=RESTRICTED))
    that("what installs rules of the kernel is refused there", "PodSecurity" in said and "NET_ADMIN" in said, said)
    said = control.refused(pod(namespace="privileged", annotations=redirected, securityContext=RESTRICTED))
    that("and created at `privileged`", not said, said)


class Late(http.server.BaseHTTPRequestHandler):
    """Another webhook, asked after ours: it adds a container."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        spec = review["request"]["object"]["spec"]
        patch = []
        if all(each["name"] != "late" for each in spec["containers"]):
            patch = [{"op": "add", "path": "/spec/containers/-", "value": {"name": "late", "image": "registry.example/late:1"}}]
        answer = {"uid": review["request"]["uid"], "allowed": True, "patchType": "JSONPatch", "patch": base64.b64encode(json.dumps(patch).encode()).decode()}
        body = json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": answer}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def reinvocation(control: Control, that):
    """Somebody adds a container after we were asked: we are asked again, and hold that one, too."""
    server = http.server.ThreadingHTTPServer((ADDRESS, 0), Late)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(control.work / "kube/api.pem", control.work / "kube/api.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    webhook = {
        "name": "late.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None",
        "clientConfig": {"url": f"https://{ADDRESS}:{server.server_port}/", "caBundle": base64.b64encode(control.ca.read_bytes()).decode()},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": TOOLS}},
    }
    # Webhooks are asked in the order of their configurations' names.
    control.create({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration", "metadata": {"name": "z-late"}, "webhooks": [webhook]})
    asks = pod(annotations={**ASKS, "outrigger.dev/egress-allow": "api.example.com", "outrigger.dev/container": "server"})

    def both():
        (made,) = control.create(asks, words=["--dry-run=server"])
        return len(made["spec"]["containers"]) == 2 and made

    try:
        made = eventually("the other webhook is asked", both)
        that("asked again after another webhook, the pod still has one sidecar", sidecars(made) == 1, made["spec"])
    finally:
        control.kubectl("delete", "mutatingwebhookconfiguration", "z-late")
        server.shutdown()


def applied_anew(mesh, that):
    """Manifests that are applied again leave the bundle; a bundle that somebody takes away comes back."""
    control = mesh.control
    before = bundles(control)
    mesh.apply()
    that("`kubectl apply` of the manifests leaves the caBundle alone", bundles(control) == before, bundles(control))
    rendered = control.kubectl("kustomize", str(ROOT / "k8s/base"))
    plain = next(each for each in yaml.safe_load_all(rendered) if each["kind"] == "MutatingWebhookConfiguration")
    control.kubectl("replace", "-f", "-", text=json.dumps(plain))
    # Nothing asserts how long it takes; it looks every 30 seconds.
    eventually("the caBundle is there again", lambda: bundles(control) == before, patience=90)
    that("one that was replaced is written again", True)


def rotation(mesh, that):
    """While the authority is replaced, API servers believe both."""
    data = mesh.parts["outrigger-ca"].volumes["data"] / "ca"
    before = bundles(mesh.control)[0].count("BEGIN CERTIFICATE")
    mesh.tool("ca", "rotate", "begin", "--dir", str(data))
    both = eventually(
        "the caBundle has the successor", lambda: all(each.count("BEGIN CERTIFICATE") == before + 1 for each in bundles(mesh.control)), patience=180
    )
    (made,) = mesh.control.create(pod(name="rotated"), words=["--dry-run=server"])
    that("while the authority is replaced, the caBundle has both roots, and pods are injected", both and sidecars(made) == 1, made)


def cost(control):
    """What the webhook adds to the creation of a pod, asked of the API server on one connection. Printed, and never asserted."""
    context = ssl.create_default_context(cafile=str(control.ca))
    way = http.client.HTTPSConnection(ADDRESS, 443, context=context, timeout=30)
    headers = {"Authorization": f"Bearer {control.admin}", "Content-Type": "application/json"}

    def create(annotations):
        body = json.dumps(pod(name="cost", annotations=annotations))
        begun = time.perf_counter()
        way.request("POST", f"/api/v1/namespaces/{TOOLS}/pods?dryRun=All", body, headers)
        answer = way.getresponse()
        said = answer.read()
        assert answer.status == 201, said
        return (time.perf_counter() - begun) * 1000

    times = {"with": [], "without": []}
    for turn in range(220):
        # In turns: whatever else the machine does is in both.
        for what, annotations in (("with", ASKS), ("without", {"a": "b"})):
            took = create(annotations)
            if turn >= 20:
                times[what].append(took)
    with_it, without = (statistics.median(times[what]) for what in ("with", "without"))
    tail = sorted(times["with"])[int(len(times["with"]) * 0.99)]
    print(f"     a pod is created in {without:.1f} ms without the webhook and in {with_it:.1f} ms with it (99th percentile {tail:.1f} ms): {with_it - without:.1f} ms more")


def denied(mesh, that):
    """Without the right to read namespaces: a pod that does not say itself what it wants waits for somebody to give it back."""
    control = mesh.control
    role = control.get("clusterrole", INJECTOR)
    poorer = {**role, "rules": [each for each in role["rules"] if each["resources"] != ["namespaces"]]}
    poorer["metadata"] = {"name": INJECTOR}
    control.kubectl("replace", "-f", "-", text=json.dumps(poorer))
    mesh.namespace("unread", "notes", labels=ASKS)
    try:
        said = eventually("it is refused", lambda: control.refused(pod(namespace="unread", annotations={})))
        words = "what the namespace of the pod says is not known" in said and "forbidden" in said
        that("a pod of a namespace that the injector may not read is not created without its sidecar, and the message says why", words, said)
        done = control.ask("create", "--dry-run=server", "-o", "json", "-f", "-", text=json.dumps(pod(namespace="unread")))
        that("one that asks itself is, with a warning", sidecars(json.loads(done.stdout)) == 1 and "could not be read" in done.stderr, done.stderr)
    finally:
        control.kubectl("apply", "-f", "-", text=json.dumps({key: role[key] for key in ("apiVersion", "kind", "rules")} | {"metadata": {"name": INJECTOR}}))


def absent(control, that, when):
    said = control.refused(pod())
    that(f"{when}, a pod that asks is not created, and the message names the webhook", "failed calling webhook" in said and "inject.outrigger.dev" in said, said)
    said = control.refused(pod(annotations={}))
    that(f"{when}, one that says nothing is created", not said, said)
    said = control.refused(pod(annotations={"outrigger.dev/inject": "false"}))
    that(f"{when}, one that says no is created", not said, said)


def ignored(control, that):
    """`failurePolicy: Ignore` lets pods go without."""
    patch = [{"op": "replace", "path": f"/webhooks/{number}/failurePolicy", "value": "Ignore"} for number in (0, 1)]
    control.kubectl("patch", "mutatingwebhookconfiguration", INJECTOR, "--type=json", "-p", json.dumps(patch))
    try:
        made = eventually("pods are created", lambda: not control.refused(pod()) and control.create(pod(), words=["--dry-run=server"]))
        that("with `Ignore` it is created without a sidecar", sidecars(made[0]) == 0, made)
    finally:
        patch = [{**each, "value": "Fail"} for each in patch]
        control.kubectl("patch", "mutatingwebhookconfiguration", INJECTOR, "--type=json", "-p", json.dumps(patch))
