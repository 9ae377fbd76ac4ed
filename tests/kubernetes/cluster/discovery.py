"""The ingress and the authority as an API server meets them: objects and their status, watches that break off, rights, tokens."""

from __future__ import annotations

import base64
import http.client
import json
import urllib.request

from control import ETCD, Broken, eventually
from manifests import SYSTEM, mesh_service, policy
from mesh import ADMIN, TOOLS, Mesh
from node import slice_of
from webhook import ASKS

INGRESS = "outrigger-ingress"
ALL = {"authorization": {"rules": [{"name": "all", "services": ["*"], "capabilities": ["*"], "requires": [{"role": "user"}]}]}}
# The sidecar's own health.
SIDECAR = 15020
META = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}


def server(name, account, **annotations):
    """A pod with one of our example services, which listens on loopback."""
    words = ["example", "vector", "--transport", "http", "--listen", "127.0.0.1:9001"]
    container = {"name": "server", "image": "outrigger:latest", "args": words, "securityContext": {"runAsUser": 1000}}
    annotations = {**ASKS, "outrigger.dev/port": "9001", **annotations}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": TOOLS, "annotations": annotations, "labels": {"app": account}},
            "spec": {"serviceAccountName": account, "containers": [container]}}


def check(mesh: Mesh, that):
    control = mesh.control
    mesh.namespace(TOOLS, "notes", "found", "other")
    if "outrigger-injector" not in mesh.parts:
        mesh.injector()
    mesh.start(INGRESS)
    mesh.node.names["outrigger-registration.outrigger-system.svc"] = mesh.parts[INGRESS].address
    mesh.ready(INGRESS)
    policies(mesh, that)
    registered(mesh, that)
    found(mesh, that)
    tokens(mesh, that)
    refusals(control, that)
    restarted(mesh, that)
    compacted(mesh, that)
    rights(mesh, that)
    asked(control, that)


def call(mesh, service):
    """Whether a tool of a service is called through the ingress."""
    way = http.client.HTTPConnection(mesh.parts[INGRESS].address, 8080, timeout=20)
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "search", "arguments": {"query": "canoe"}, "_meta": META}}
    headers = {
        "Content-Type": "application/json", "Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": "tools/call", "Mcp-Name": "search", "Authorization": f"Bearer {(mesh.work / 'token').read_text().strip()}", "Host": "127.0.0.1",
    }
    way.request("POST", f"/s/{service}/mcp", json.dumps(message), headers)
    answer = way.getresponse()
    text = answer.read().decode()
    lines = [line.removeprefix("data:") for line in text.splitlines() if line.startswith("data:")] or [text]
    try:
        return not json.loads(lines[-1])["result"]["isError"]
    except (ValueError, KeyError):
        raise Broken(f"HTTP {answer.status}: {text[:300]}") from None


def conditions(control, kind, name, namespace):
    """By type: status, reason and whether it is of the object as it is."""
    each = control.get(kind, name, "-n", namespace)
    known = each.get("status", {}).get("conditions", [])
    return {one["type"]: (one["status"], one["reason"], one.get("observedGeneration") == each["metadata"]["generation"]) for one in known}


def row(control, *words):
    """The columns that people see, by their heads: a value begins below its head."""
    head, line = control.kubectl("get", *words).splitlines()[:2]
    names = head.split()
    starts = [head.index(name) for name in names] + [None]
    return {name: line[start:end].strip() for name, start, end in zip(names, starts, starts[1:])}


def policies(mesh, that):
    control = mesh.control
    wanted = {"Accepted": ("True", "Valid", True), "Programmed": ("True", "InForce", True)}
    control.apply(policy(ALL, "all"))
    eventually("the policy is in force", lambda: conditions(control, "securitypolicy", "all", SYSTEM) == wanted)
    that("the ingress writes into the status that a policy is in force, for the object as it is", True)
    seen = row(control, "securitypolicies", "all", "-n", SYSTEM)
    wanted = {"NAME": "all", "MODE": "", "ACCEPTED": "True", "PROGRAMMED": "True", "REASON": "InForce"}
    that("`kubectl get securitypolicies` shows its columns", seen.items() >= wanted.items(), seen)
    wrong = {"authorization": {"rules": [{"name": "x", "services": ["*"], "capabilities": ["*"], "when": "nonsense("}]}}
    control.apply(policy(wrong, "wrong"))
    wanted = {"Accepted": ("False", "Invalid", True), "Programmed": ("False", "NotInForce", True)}
    eventually("the wrong one is told", lambda: conditions(control, "securitypolicy", "wrong", SYSTEM) == wanted)
    said = control.kubectl("describe", "securitypolicy", "wrong", "-n", SYSTEM)
    that("of one that is wrong, `kubectl describe` shows the mistake", "nonsense" in said or "when" in said, said)
    control.apply(policy({"authorization": {"rules": [*ALL["authorization"]["rules"], *wrong["authorization"]["rules"]]}}, "all"))
    wanted = {"Accepted": ("False", "Invalid", True), "Programmed": ("False", "LastGood", True)}
    eventually("the good one was made wrong", lambda: conditions(control, "securitypolicy", "all", SYSTEM) == wanted)
    control.apply(policy(ALL, "all"))
    wanted = {"Accepted": ("True", "Valid", True), "Programmed": ("True", "InForce", True)}
    eventually("it is repaired", lambda: conditions(control, "securitypolicy", "all", SYSTEM) == wanted)
    that("one that becomes wrong stays as it was, says so, and is in force again when it is repaired", True)
    control.kubectl("delete", "securitypolicy", "wrong", "-n", SYSTEM)


def registered(mesh, that):
    """From a person's pod to a call: webhook, token, certificate, registration."""
    (made,) = mesh.control.create(server("notes-0", "notes"))
    pod = mesh.node.run(made)
    eventually("the sidecar is ready", lambda: pod.ready(SIDECAR))
    that("a pod that the webhook injected gets its certificate by its service-account token", True)
    that("and is called through the ingress", eventually("it is called", lambda: call(mesh, "notes")))


def found(mesh, that):
    """Sidecars that do not register, behind a Service and its EndpointSlices."""
    control = mesh.control
    pods = []
    for number in range(2):
        asked = server(f"found-{number}", "found")
        (made,) = control.create(asked, words=["--dry-run=server"])
        sidecar = made["spec"]["initContainers"][-1]
        sidecar["env"] = [each for each in sidecar["env"] if each["name"] != "OUTRIGGER_INGRESS"]
        meta = {key: made["metadata"][key] for key in ("name", "namespace", "annotations", "labels")}
        made["spec"].pop("serviceAccount", None)
        (made,) = control.create({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": made["spec"]})
        pods.append(mesh.node.run(made))
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "found", "namespace": TOOLS, "annotations": {"outrigger.dev/service": "found"}},
               "spec": {"selector": {"app": "found"}, "ports": [{"name": "http", "port": 80, "targetPort": 9001}]}}
    control.apply(service, slice_of("found", TOOLS, 9001, "http", [pods[0].address]))
    that("an annotated Service is found with its endpoints", eventually("it is called", lambda: call(mesh, "found")))
    control.kubectl("annotate", "service", "-n", TOOLS, "found", "outrigger.dev/service-")
    eventually("it is gone", lambda: is_gone(mesh, "found"))
    that("without its annotation it is none any more", True)
    described = mesh_service({"service": "found", "port": 8443, "concurrency": {"limit": 5}}, "found")
    described["metadata"]["namespace"] = TOOLS
    control.apply(described)
    eventually("the object counts", lambda: call(mesh, "found"))
    wanted = {"Accepted": ("True", "Valid", True), "Ready": ("True", "Serving", True)}
    eventually("its status says so", lambda: conditions(control, "meshservice", "found", TOOLS) == wanted)
    that("a MeshService object brings its replicas, and its status says that they answer", True)
    control.apply(slice_of("found", TOOLS, 9001, "http", [pod.address for pod in pods]))
    seen = eventually("both replicas are counted", lambda: (now := row(control, "meshservices", "found", "-n", TOOLS)).get("REPLICAS") == "2" == now.get("ANSWERING") and now)
    wanted = {"NAME": "found", "SERVICE": "found", "REPLICAS": "2", "ANSWERING": "2", "ACCEPTED": "True", "READY": "True", "REASON": "Serving"}
    that("`kubectl get meshservices` shows its columns", seen.items() >= wanted.items(), seen)
    control.apply(slice_of("found", TOOLS, 9001, "http", [pod.address for pod in pods], ready=False))
    eventually("nobody is ready", lambda: conditions(control, "meshservice", "found", TOOLS)["Ready"][:2] == ("False", "NoReplicas"))
    that("endpoints that are not ready leave", True)
    control.apply(slice_of("found", TOOLS, 9001, "http", [pods[0].address]))
    eventually("one is back", lambda: conditions(control, "meshservice", "found", TOOLS)["Ready"][:2] == ("True", "Serving"))
    mesh.pods = pods


def is_gone(mesh, service):
    try:
        call(mesh, service)
        return False
    except Broken:
        return True


def tokens(mesh, that):
    """Which service-account tokens the authority takes: those that the API server vouches for, for its audience, of a pod that is there."""
    control = mesh.control
    mesh.namespace("nobody", "notes")
    for what, namespace, words, why in (
        ("for another audience", TOOLS, ["--audience=vault"], "kubernetes_refused"),
        ("for the API server itself", TOOLS, [], "kubernetes_refused"),
        ("of a namespace without a rule", "nobody", ["--audience=outrigger"], "kubernetes_no_rule"),
        ("of another account", TOOLS, ["--audience=outrigger"], "name_refused"),
    ):
        account = "other" if why == "name_refused" else "notes"
        token = control.token(namespace, account, *words)
        that(f"a token {what} is refused", why in (said := waits(mesh, token)), said)
    # A token dies with the pod that it was made for.
    bound = server("gone", "notes")
    (made,) = control.create(bound)
    token = control.token(TOOLS, "notes", "--audience=outrigger", "--bound-object-kind=Pod", "--bound-object-name=gone", f"--bound-object-uid={made['metadata']['uid']}")
    control.kubectl("delete", "pod", "-n", TOOLS, "gone", "--grace-period=0", "--force")
    that("a token of a pod that is gone is refused", "kubernetes_refused" in (said := waits(mesh, token)), said)


def waits(mesh, token):
    """Why a sidecar with this token gets no certificate."""
    name = f"waits-{mesh.node.free}".replace(".", "-")
    (made,) = mesh.control.create(server(name, "notes"))
    pod = mesh.node.pod(made)
    (pod.volumes["outrigger-identity"] / "token").write_text(token)
    pod.start("outrigger-sidecar")
    try:
        return eventually("it says why", lambda: "because" in (text := pod.page(SIDECAR, "/readyz")[1]) and text)
    finally:
        pod.end()


def restarted(mesh, that):
    """The API server is killed: what is known stays, and watches go on."""
    control = mesh.control
    control.end("kube-apiserver", signal=9)
    that("while there is no API server, calls go on", call(mesh, "found") and call(mesh, "notes"))
    control.start_api_server()
    control.apply(slice_of("found", TOOLS, 9001, "http", [pod.address for pod in mesh.pods]))
    eventually("a change is seen", lambda: row(control, "meshservices", "found", "-n", TOOLS).get("REPLICAS") == "2", patience=120)
    that("after its restart, changes are seen again", True)
    that("and nobody was lost meanwhile", call(mesh, "found"))


def compacted(mesh, that):
    """The versions from which the ingress would go on are compacted away: it lists again."""
    control = mesh.control
    control.end("kube-apiserver", signal=9)
    for number in range(200):
        etcd("kv/put", {"key": encoded("/other"), "value": encoded(str(number))})
    revision = etcd("kv/range", {"key": encoded("/other")})["header"]["revision"]
    etcd("kv/compaction", {"revision": revision, "physical": True})
    before = sum(1 for _ in control.asked())
    control.start_api_server()
    control.apply(slice_of("found", TOOLS, 9001, "http", [mesh.pods[0].address]))
    eventually("a change is seen", lambda: row(control, "meshservices", "found", "-n", TOOLS).get("REPLICAS") == "1", patience=120)
    again = list(control.asked())[before:]
    lists = {each[3] for each in again if each[0] == f"{SYSTEM}:{INGRESS}" and each[1] == "list"}
    that("where its version is compacted away it lists again, and sees changes", "endpointslices" in lists, lists)
    that("and calls go on", call(mesh, "found") and call(mesh, "notes"))


def etcd(path, body):
    with urllib.request.urlopen(urllib.request.Request(f"{ETCD}/v3/{path}", json.dumps(body).encode())) as answer:
        return json.loads(answer.read())


def encoded(text):
    return base64.b64encode(text.encode()).decode()


def rights(mesh, that):
    """An ingress that starts without its rights says which it lacks."""
    control = mesh.control
    kept = [("clusterrolebinding", "outrigger-discovery"), ("rolebinding", INGRESS)]
    objects = [control.get(kind, name, "-n", SYSTEM) for kind, name in kept]
    for kind, name in kept:
        control.kubectl("delete", kind, name, "-n", SYSTEM)
    first = mesh.parts[INGRESS]
    try:
        second = mesh.start(INGRESS)
        said = eventually("it says so", lambda: "forbidden" in (text := second.log()) and text)
        that("an ingress without its rights says what it may not do", "cannot list resource" in said, said[-1500:])
        status, text = second.page(ADMIN[INGRESS], "/readyz")
        that("and is not ready, and says that it lacks the right to read policies", status == 503 and "securitypolicies" in text and "403" in text, f"{status} {text}")
        that("while the other one goes on", call_at(mesh, first))
    finally:
        for each in objects:
            meta = {key: each["metadata"][key] for key in ("name", "namespace") if key in each["metadata"]}
            control.apply({key: each[key] for key in ("apiVersion", "kind", "roleRef", "subjects")} | {"metadata": meta})
    eventually("it becomes ready with its rights", lambda: second.ready(ADMIN[INGRESS]))
    that("it becomes ready when it has them", True)
    mesh.end(INGRESS)
    mesh.parts[INGRESS] = first


def call_at(mesh, pod):
    held, mesh.parts[INGRESS] = mesh.parts[INGRESS], pod
    try:
        return call(mesh, "notes")
    finally:
        mesh.parts[INGRESS] = held


def refusals(control, that):
    """Up to here nothing was taken away but the injector's right to read namespaces, for a moment."""
    wrong = [each for each in control.asked() if each[0].startswith(f"{SYSTEM}:") and each[5] in (401, 403) and each[3] != "namespaces"]
    that("no request of ours was refused for want of a right", not wrong, wrong[:5])


def asked(control, that):
    """What our programs have asked the API server is what they may: no right is there for nothing."""
    used, may = {}, {}
    for account, verb, group, resource, _, code, _ in control.asked():
        # `/version` is nothing that takes a right of ours.
        if account.startswith(f"{SYSTEM}:") and resource and code < 300:
            used.setdefault(account.partition(":")[2], set()).add((group, resource, verb))
    for binding in control.get("rolebindings,clusterrolebindings", "-A")["items"]:
        for subject in binding.get("subjects", []):
            if subject.get("namespace") == SYSTEM and subject["kind"] == "ServiceAccount":
                of = binding["roleRef"]
                rules = control.get(of["kind"].lower(), of["name"], "-n", SYSTEM)["rules"]
                rights = {(group, resource, verb) for rule in rules for group in rule["apiGroups"] for resource in rule["resources"] for verb in rule["verbs"]}
                may.setdefault(subject["name"], set()).update(rights)
    for account in sorted(may):
        have, used_of = may[account], used.get(account, set())
        that(f"{account} has used each of its rights, and no other", have == used_of, f"unused: {have - used_of}, others: {used_of - have}")
