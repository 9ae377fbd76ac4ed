#!/usr/bin/env python3
"""Everything for Kubernetes that is in this repository, held to the schemas of its versions, offline.

Validated are the manifests below k8s/ and what the injector makes of the pods in tests/kubernetes/inject. Schemas know
fields and types; what an API server checks besides (names that refer to nothing, two of one name, the restricted level of
Pod Security for what we add) is looked at here.
"""

import argparse
import copy
import pathlib
import sys

import kubernetes_validate
import yaml

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
# The oldest with native sidecars, and the newest that there is.
VERSIONS = ["1.29", kubernetes_validate.latest_version()]
OLD_VERSIONS = ["1.28"]
OURS = {"outrigger-sidecar", "outrigger-redirect", "outrigger-copy"}
NOT_OF_KUBERNETES = ("outrigger.dev/", "mcpx.io/", "monitoring.coreos.com/", "cert-manager.io/", "kustomize.config.k8s.io/")

problems = []
count = 0


def problem(where, text):
    problems.append(f"{where}: {text}")


def objects(path):
    """The objects of a file, those in lists too."""
    for document in yaml.safe_load_all(path.read_text()):
        if not document:
            continue
        if document.get("kind") == "List":
            yield from document["items"]
        else:
            yield document


def pod_of(thing):
    """The pod that an object holds, if it holds one."""
    kind, spec = thing.get("kind"), thing.get("spec") or {}
    if kind == "Pod":
        return thing
    if kind == "CronJob":
        return spec["jobTemplate"]["spec"]["template"]
    return spec["template"] if "template" in spec and "containers" in spec["template"].get("spec", {}) else None


def schema(where, thing, versions):
    global count
    if thing.get("apiVersion", "").startswith(NOT_OF_KUBERNETES):
        return
    for version in versions:
        count += 1
        try:
            kubernetes_validate.validate(thing, version, strict=True)
        except Exception as error:  # one class for each kind of trouble, and all are trouble
            path = "/".join(str(part) for part in getattr(error, "absolute_path", []))
            problem(where, f"Kubernetes {version}: {path}: {str(getattr(error, 'message', error))[:300]}")


def twice(names):
    seen = set()
    return sorted({name for name in names if name in seen or seen.add(name)})


def pod_rules(where, pod):
    spec = pod["spec"]
    containers = spec.get("initContainers", []) + spec["containers"]
    for name in twice(container["name"] for container in containers):
        problem(where, f"two containers `{name}`")
    for name in twice(volume["name"] for volume in spec.get("volumes", [])):
        problem(where, f"two volumes `{name}`")
    claims = {"data"}  # of volumeClaimTemplates, which stand elsewhere
    volumes = {volume["name"] for volume in spec.get("volumes", [])} | claims
    for container in containers:
        place = f"{where}: {container['name']}"
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in volumes:
                problem(place, f"mounts `{mount['name']}`, which is no volume")
        for path in twice(mount["mountPath"] for mount in container.get("volumeMounts", [])):
            problem(place, f"mounts two things at {path}")
        for name in twice(variable["name"] for variable in container.get("env", [])):
            problem(place, f"sets {name} twice")
        for port in container.get("ports", []):
            if len(port.get("name", "")) > 15:
                problem(place, f"the port name {port['name']} has more than 15 characters")
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            kinds = set(container.get(probe, {})) & {"httpGet", "tcpSocket", "exec", "grpc"}
            if probe in container and len(kinds) != 1:
                problem(place, f"{probe} asks {sorted(kinds)}")
    for name in twice(port["name"] for container in containers for port in container.get("ports", []) if "name" in port):
        problem(where, f"two ports `{name}`")


def injected_rules(where, pod):
    """What is promised of what the injector adds: the restricted level of Pod Security, but for the rules of redirection."""
    for container in pod["spec"].get("initContainers", []) + pod["spec"]["containers"]:
        if container["name"] not in OURS:
            continue
        context = container["securityContext"]
        redirect = container["name"] == "outrigger-redirect"
        wanted = {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": not redirect,
            "runAsUser": 0 if redirect else 1337,
            "seccompProfile": {"type": "RuntimeDefault"},
            "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]} if redirect else {"drop": ["ALL"]},
        }
        for name, value in wanted.items():
            if context.get(name) != value:
                problem(f"{where}: {container['name']}", f"{name} is {context.get(name)}, not {value}")
        if not {"requests", "limits"} <= set(container["resources"]):
            problem(f"{where}: {container['name']}", "no resources")


def injected(directory, versions):
    paths = sorted((HERE / directory / "expected").glob("*.yaml"))
    for path in paths:
        where = str(path.relative_to(ROOT))
        for thing in objects(path):
            schema(where, thing, versions)
            pod = pod_of(thing)
            if pod:
                pod_rules(where, pod)
                injected_rules(where, pod)
    return len(paths)


def manifests():
    paths = sorted(path for path in (ROOT / "k8s").rglob("*.yaml"))
    for path in paths:
        where = str(path.relative_to(ROOT))
        for thing in objects(path):
            # Patches of kustomize are parts of objects; what they make is validated where it is rendered.
            if "apiVersion" in thing and "patches" not in path.parts:
                schema(where, thing, VERSIONS)
                pod = pod_of(thing)
                if pod:
                    pod_rules(where, pod)
    return len(paths)


def can_fail():
    """That what is found above could be found: a pod with a field that there is not, one of a wrong type, two of one name."""
    good = next(objects(HERE / "inject/expected/http-minimal.yaml"))
    for member, value in (("initContainres", []), ("volumes", "none"), ("volumes", [{"name": 7}])):
        broken = copy.deepcopy(good)
        broken["spec"][member] = value
        before = len(problems)
        schema("a broken pod", broken, VERSIONS[-1:])
        assert len(problems) == before + 1, f"nothing was found of {member}: {value}"
        problems.pop()
    doubled = copy.deepcopy(good)
    doubled["spec"]["containers"] *= 2
    pod_rules("a doubled container", doubled)
    assert len(problems) >= 1, "two containers of one name were not found"
    problems.clear()


def main():
    argparse.ArgumentParser(description=__doc__).parse_args()
    can_fail()
    done = f"{injected('inject', VERSIONS) + injected('inject/agent', VERSIONS)} injected files, {injected('inject/plain', OLD_VERSIONS)} for older clusters, {manifests()} manifests"
    for text in problems:
        print(text)
    print(f"{done}; {count} validations: {len(problems)} problems")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
