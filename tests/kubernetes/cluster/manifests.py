"""Are the manifests, the definitions of our objects and the policies of the documentation what an API server takes?"""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from pathlib import Path

import yaml

from control import Control, eventually

ROOT = Path(__file__).resolve().parents[3]
SYSTEM = "outrigger-system"
COMPONENTS = sorted(path.name for path in (ROOT / "k8s/components").iterdir())
# Kinds whose definitions come with other people's operators.
FOREIGN = {"Issuer", "Certificate", "ServiceMonitor", "PodMonitor"}
SERVICES, POLICIES = "meshservices", "securitypolicies"


def mesh_service(spec, name="one"):
    return {"apiVersion": "mcpx.io/v1", "kind": "MeshService", "metadata": {"name": name, "namespace": SYSTEM}, "spec": spec}


def policy(spec, name="one"):
    return {"apiVersion": "mcpx.io/v1", "kind": "SecurityPolicy", "metadata": {"name": name, "namespace": SYSTEM}, "spec": spec}


LIMIT = {"name": "l", "per": "client", "rate": "5/s"}
RULE = {"name": "r", "services": ["*"], "capabilities": ["*"]}


def rule(**more):
    return policy({"authorization": {"rules": [{**RULE, **more}]}})


# An object that each CEL rule refuses, and its nearest neighbours that it lets pass. By the beginning of the rule's message.
RULES = {
    "replicas would come from two places": (
        [mesh_service({"service": "a", "addresses": ["10.0.0.1:8443"]})],
        [mesh_service({"service": "a"}), mesh_service({"addresses": ["10.0.0.1:8443"]}), mesh_service({"service": "a", "addresses": []})],
    ),
    "`port` is a port of the pods": (
        [mesh_service({"port": 8443}), mesh_service({"port": "mesh", "addresses": ["10.0.0.1:8443"]})],
        [mesh_service({"service": "a", "port": 8443}), mesh_service({"service": "a", "port": "mesh"})],
    ),
    # Of the object as it is: the first is there, the second takes its place.
    "`name` stays": (
        [(mesh_service({"name": "a"}), mesh_service({"name": "b"})), (mesh_service({"name": "a"}), mesh_service({})),
         (mesh_service({}), mesh_service({"name": "one"}))],
        [(mesh_service({"name": "a"}), mesh_service({"name": "a", "max_replicas": 3})), (mesh_service({}), mesh_service({"max_replicas": 3}))],
    ),
    "limits are always in force": (
        [policy({"mode": "audit", "limits": [LIMIT]}), policy({"mode": "audit", "limits": []})],
        [policy({"mode": "audit"}), policy({"mode": "enforce", "limits": [LIMIT]}), policy({"limits": [LIMIT]})],
    ),
}
# What the schemas refuse, and the words by which.
WRONG = [
    (rule(effect="dney"), "spec.authorization.rules[0].effect"),
    (rule(services=[]), "services"),
    (rule(services=[""]), "services[0]"),
    (rule(capabilities=[]), "capabilities"),
    (rule(kinds=["toll"]), "kinds[0]"),
    (rule(requires=[{}]), "requires[0]"),
    (rule(requires=[{"scope": "a", "role": "b"}]), "requires[0]"),
    (rule(requires=[{"scope": "a b"}]), "scope"),
    (rule(limits={"rate": "0/s"}), "rate"),
    (rule(limits={"rate": "5/w"}), "rate"),
    (rule(budget={"cost": 0, "per": "1h"}), "cost"),
    (rule(name="a b"), "name"),
    (rule(efect="deny"), "efect"),
    (policy({"authorization": {"rules": [{"name": "r", "services": ["*"]}]}}), "capabilities"),
    (policy({"limits": [{**LIMIT, "per": "planet"}]}), "per"),
    (policy({"costs": [{"services": ["*"], "cost": -1}]}), "cost"),
    (policy({}, name="n" * 64), "metadata.name"),
    ({key: value for key, value in policy({}).items() if key != "spec"}, "spec"),
    (mesh_service({"name": "a_b"}), "spec.name"),
    (mesh_service({"name": "a" * 21}), "spec.name"),
    (mesh_service({"service": "A"}), "spec.service"),
    (mesh_service({"service": "a", "port": []}), "spec.port"),
    (mesh_service({"addresses": ["10.0.0.1"]}), "spec.addresses[0]"),
    (mesh_service({"addresses": [f"10.0.{n // 256}.{n % 256}:1" for n in range(257)]}), "spec.addresses"),
    (mesh_service({"max_replicas": 0}), "max_replicas"),
    (mesh_service({"retries": {"attempts": 6}}), "attempts"),
    (mesh_service({"breaker": {"window": "10"}}), "window"),
    (mesh_service({"tools": [{"names": ["a"], "repeat": "perhaps"}]}), "repeat"),
    (mesh_service({"tools": [{"deadline": "1s"}]}), "names"),
    (mesh_service({"spiffe_id": "spiffe://a/b"}), "spiffe_id"),
]


def warned(done):
    """What the API server warns of. kubectl cannot take over the fields of an earlier `apply` while it only tries, and says so."""
    return [line for line in done.stderr.splitlines() if "Warning" in line and "failed to migrate" not in line]


def check(control: Control, that):
    install(control, that)
    definitions(control, that)
    rules(control, that)
    documents(control, that)
    parts(control, that)
    components(control, that)


def install(control, that):
    """As k8s/README.md says it."""
    done = control.ask("apply", "-k", str(ROOT / "k8s/base"), "--validate=strict")
    that("`kubectl apply -k k8s/base` goes well on an empty cluster", done.returncode == 0, done.stderr)
    that("without a warning", not warned(done), done.stderr)
    before = generations(control)
    again = control.ask("apply", "-k", str(ROOT / "k8s/base"), "--validate=strict")
    that("the second time too, and changes nothing", again.returncode == 0 and generations(control) == before, again.stderr)
    server = control.ask("apply", "-k", str(ROOT / "k8s/base"), "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict")
    that("nor is anything wrong with it for server-side apply", server.returncode == 0 and not warned(server), server.stderr)


def generations(control):
    """Which text each object has; kubectl says `configured` of some although nothing is new."""
    kinds = "deployments,statefulsets,poddisruptionbudgets,networkpolicies,horizontalpodautoscalers"
    return {each["metadata"]["uid"]: each["metadata"].get("generation") for each in control.get(kinds, "-n", SYSTEM)["items"]}


def definitions(control, that):
    for plural in (SERVICES, POLICIES):
        name = f"{plural}.mcpx.io"
        crd = eventually(f"{name} is established", lambda name=name: established(control, name))
        wrong = [each for each in crd["status"]["conditions"] if each["type"] not in ("NamesAccepted", "Established")]
        that(f"{name} is established, and nothing is said against it", not wrong, wrong)
    # kubectl remembers which kinds there are.
    shutil.rmtree(control.work / "cache")
    asked = control.ask("get", "outrigger", "-n", SYSTEM)
    that("`kubectl get outrigger` knows our kinds", asked.returncode == 0, asked.stderr)
    asked = control.ask("explain", "meshservice.spec.breaker.share")
    that("`kubectl explain` has our descriptions", "at which a replica is left alone too" in " ".join(asked.stdout.split()), asked.stdout + asked.stderr)


def established(control, name):
    crd = control.get("crd", name)
    holds = {each["type"]: each["status"] for each in crd.get("status", {}).get("conditions", [])}
    return holds.get("Established") == "True" and crd


def rules(control, that):
    """Each CEL rule, by objects on both of its sides, and each kind of mistake that schemas refuse."""
    known = [found["message"] for plural in (SERVICES, POLICIES) for found in validations(control.get("crd", f"{plural}.mcpx.io"))]
    # The tables are whole: a new rule takes new cases.
    without = [message for message in known if not any(message.startswith(begin) for begin in RULES)]
    that("every CEL rule has its cases here", not without and len(known) == len(RULES), without)
    for begin, (bad, good) in RULES.items():
        for objects, wanted in [*((each, True) for each in bad), *((each, False) for each in good)]:
            first, then = objects if isinstance(objects, tuple) else (None, objects)
            said = changed(control, first, then) if first else control.refused(then)
            holds = begin in said if wanted else not said
            that(f"CEL {'refuses' if wanted else 'lets pass'}: {json.dumps(then['spec'])} ({begin})", holds, said)
    for wrong, words in WRONG:
        said = control.refused(wrong)
        that(f"refused for {words}: {json.dumps(wrong.get('spec'))[:90]}", words in said, said or "it was accepted")


def changed(control, first, then):
    """What becomes of an object that is there when it is to say something else."""
    control.create(first)
    try:
        done = control.ask("replace", "--dry-run=server", "-f", "-", text=json.dumps(then))
        return done.stderr if done.returncode else ""
    finally:
        control.kubectl("delete", "-n", SYSTEM, f"{then['kind'].lower()}s.mcpx.io", first["metadata"]["name"])


def validations(value):
    if isinstance(value, dict):
        yield from value.get("x-kubernetes-validations", [])
        for each in value.values():
            yield from validations(each)
    elif isinstance(value, list):
        for each in value:
            yield from validations(each)


def documents(control, that):
    """Every policy and service that documentation and examples show."""
    found = 0
    for path in [*sorted(ROOT.glob("docs/*.md")), ROOT / "compose/policy.yaml", ROOT / "compose/shop-policy.yaml",
                 *sorted(ROOT.glob("sidecar/policy/*.yaml"))]:
        texts = [path.read_text()] if path.suffix == ".yaml" else re.findall(r"```yaml\n(.*?)```", path.read_text(), re.S)
        for each in (one for words in texts if "mcpx.io/v1" in words for one in yaml.safe_load_all(words)):
            if not isinstance(each, dict) or each.get("kind") not in ("SecurityPolicy", "MeshService"):
                continue
            found += 1
            each = {**each, "metadata": {**each["metadata"], "namespace": SYSTEM}}
            said = control.refused(each)
            that(f"{each['kind']} {each['metadata']['name']} of {path.relative_to(ROOT)} is accepted", not said, said)
    that("documentation shows policies and services", found > 5, found)


def parts(control, that):
    """Each pod of ours, at the restricted level that our namespace has."""
    account_files(control, SYSTEM)
    for workload in control.get("deployments,statefulsets", "-n", SYSTEM)["items"]:
        done = control.ask("create", "--dry-run=server", "-f", "-", text=json.dumps(pod_of(workload)))
        good = done.returncode == 0 and not warned(done)
        that(f"a pod of {workload['metadata']['name']} may be created in {SYSTEM}", good, done.stderr)


def pod_of(workload, name=None):
    """The pod that a controller would make."""
    template = copy.deepcopy(workload["spec"]["template"])
    for claim in workload["spec"].get("volumeClaimTemplates", []):
        template["spec"]["volumes"].append({"name": claim["metadata"]["name"], "emptyDir": {}})
    meta = {"name": name or f"{workload['metadata']['name']}-0", "namespace": workload["metadata"]["namespace"],
            "labels": template["metadata"]["labels"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": template["spec"]}


def account_files(control, namespace):
    """What controllers put into every namespace."""
    control.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": namespace}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kube-root-ca.crt", "namespace": namespace},
         "data": {"ca.crt": control.ca.read_text()}},
    )


def components(control, that):
    """Each component beside the base, and all together; nothing of it stays."""
    for names in [*([each] for each in COMPONENTS), sorted(COMPONENTS, key=lambda each: each == "no-network-policy")]:
        directory = control.work / ("overlay-" + "-".join(names))
        directory.mkdir()
        # kustomize takes relative paths only.
        up = Path(*[".."] * len(directory.resolve().parents)) / str(ROOT / "k8s").lstrip("/")
        text = {"resources": [f"{up}/base"], "components": [f"{up}/components/{each}" for each in names]}
        (directory / "kustomization.yaml").write_text(yaml.safe_dump(text))
        rendered = subprocess.run([control.program, "kustomize", str(directory)], capture_output=True, text=True)
        objects = [each for each in yaml.safe_load_all(rendered.stdout) if each and each["kind"] not in FOREIGN]
        words = ["--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict"]
        done = control.ask("apply", "-f", "-", *words, text="---\n".join(yaml.safe_dump(each) for each in objects))
        good = rendered.returncode == 0 and done.returncode == 0 and not warned(done)
        that(f"components {', '.join(names)} are accepted", good, rendered.stderr + done.stderr)
