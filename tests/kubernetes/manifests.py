#!/usr/bin/env python3
"""Renders the manifests of k8s/ and checks what they say: against the schemas of Kubernetes, against each other, and against the
programs that they start."""

import argparse
import itertools
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import jsonschema
import kubernetes_validate
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
# The oldest that docs/KUBERNETES.md promises, and a new one.
VERSIONS = ["1.29", "1.36"]
COMPONENTS = sorted(path.name for path in (ROOT / "k8s/components").iterdir())
# Those that say something to the ingress, and by which variable at least.
OF_THE_INGRESS = {
    "consul": "OUTRIGGER_CONSUL", "discovery": "OUTRIGGER_DISCOVERY_NAMESPACES", "high-availability": "OUTRIGGER_QUOTA_STORE",
}
NAMESPACE = "outrigger-system"
# Kinds of others, whose schemas nobody here has.
FOREIGN = {"Issuer", "Certificate", "ServiceMonitor", "PodMonitor"}
# What k8s/README.md has people make, and what cert-manager makes: name, and keys.
BY_HAND = {
    ("ConfigMap", "outrigger-anchor"): {"ca_sha256"},
    ("Secret", "outrigger-clients"): {"tokens.yaml"},
    ("Secret", "outrigger-consul"): {"token", "ca.pem"},
    ("Secret", "outrigger-sessions"): {"keys"},
    ("Secret", "outrigger-quota"): {"password"},
    ("Secret", "outrigger-injector-tls"): {"tls.crt", "tls.key"},
}
# The calls to the API server that the code makes, by service account: group, resource, verb and name.
CALLS = {
    "outrigger-ingress": {
        ("mcpx.io", "securitypolicies", "list", None),
        ("mcpx.io", "securitypolicies", "watch", None),
        ("mcpx.io", "securitypolicies/status", "patch", None),
        ("mcpx.io", "meshservices", "list", None),
        ("mcpx.io", "meshservices", "watch", None),
        ("mcpx.io", "meshservices/status", "patch", None),
        ("", "services", "list", None),
        ("", "services", "watch", None),
        ("discovery.k8s.io", "endpointslices", "list", None),
        ("discovery.k8s.io", "endpointslices", "watch", None),
    },
    "outrigger-ca": {("authentication.k8s.io", "tokenreviews", "create", None)},
    "outrigger-injector": {
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations", "get", "outrigger-injector"),
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations", "patch", "outrigger-injector"),
        ("", "namespaces", "get", None),
    },
}
# The image of a container, how its program is had from the one that tests build, and its kind of settings.
PROGRAMS = {"outrigger": [], "outrigger-ingress": ["ingress"]}
SETTINGS = {"ca.yaml": "ca", "ingress.yaml": "ingress", "inject.yaml": "inject"}


class Failed(Exception):
    pass


def expect(condition, text):
    if not condition:
        raise Failed(text)


def render(kubectl, directory):
    out = subprocess.run([kubectl, "kustomize", str(directory)], capture_output=True, text=True, check=False)
    expect(out.returncode == 0, f"{directory} cannot be rendered: {out.stderr}")
    return [each for each in yaml.safe_load_all(out.stdout) if each]


def overlay(scratch, components):
    """A kustomization as people write one."""
    directory = scratch / "+".join(components)
    directory.mkdir()
    up = os.path.relpath(ROOT / "k8s", directory)
    (directory / "kustomization.yaml").write_text(
        yaml.safe_dump({"resources": [f"{up}/base"], "components": [f"{up}/components/{each}" for each in components]})
    )
    return directory


def combinations():
    """Each by itself, each pair in both orders where they change the same Deployment, and all together."""
    yield from ([each] for each in COMPONENTS)
    for pair in itertools.permutations(OF_THE_INGRESS, 2):
        yield list(pair)
    # What takes policies away is last, or it would miss those that come after it.
    yield sorted(COMPONENTS, key=lambda each: each == "no-network-policy")


def check_combined(objects, components):
    """What each component says is still there beside the others."""
    deployment = objects.one("Deployment", "outrigger-ingress", "k8s/base")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    names = {each["name"] for each in container["env"]}
    for component, variable in OF_THE_INGRESS.items():
        expect((variable in names) == (component in components), f"{variable} is there without {component}, or not with it")


class Objects:
    """Everything that one rendering has."""

    def __init__(self, objects):
        self.all = objects
        self.by = {(each["kind"], each["metadata"]["name"]): each for each in objects}
        expect(len(self.by) == len(objects), "two objects have one name")

    def settings(self, name):
        """A generated ConfigMap; its name ends in a hash."""
        found = [each for each in self.of("ConfigMap") if each["metadata"]["name"].rpartition("-")[0] == name]
        expect(len(found) == 1, f"there are {len(found)} ConfigMaps {name}")
        return found[0]["data"]

    def of(self, *kinds):
        return [each for each in self.all if each["kind"] in kinds]

    def one(self, kind, name, why):
        expect((kind, name) in self.by, f"{why}: there is no {kind} {name}")
        return self.by[(kind, name)]

    def workloads(self):
        return self.of("Deployment", "StatefulSet")

    def selected(self, selector):
        labels = selector or {}
        return [
            each
            for each in self.workloads()
            if labels.items() <= each["spec"]["template"]["metadata"]["labels"].items()
        ]


def name_of(each):
    return f"{each['kind']} {each['metadata']['name']}"


def ports_of(workload):
    containers = workload["spec"]["template"]["spec"]["containers"]
    return {port["name"]: port["containerPort"] for one in containers for port in one.get("ports", [])}


def check_schemas(objects):
    for each in objects.all:
        if each["kind"] in FOREIGN:
            continue
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(each, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                raise Failed(f"{name_of(each)} in {version}: {error}") from error


def check_names(objects):
    """Everything is in the one namespace, and nothing else names another one."""
    cluster = {"Namespace", "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition", "MutatingWebhookConfiguration"}
    for each in objects.all:
        namespace = each["metadata"].get("namespace")
        wanted = None if each["kind"] in cluster else NAMESPACE
        expect(namespace == wanted, f"{name_of(each)} is in {namespace}, not in {wanted}")


def source(objects, kind, name, why):
    """The keys of a ConfigMap or Secret."""
    if (kind, name) in BY_HAND:
        return BY_HAND[(kind, name)]
    return set(objects.one(kind, name, why)["data"])


def check_pods(objects):
    for workload in objects.workloads():
        pod, why = workload["spec"]["template"]["spec"], name_of(workload)
        objects.one("ServiceAccount", pod["serviceAccountName"], why)
        labels = workload["spec"]["template"]["metadata"]["labels"]
        expect(workload["spec"]["selector"]["matchLabels"].items() <= labels.items(), f"{why} does not select its pods")
        volumes = {each["name"]: each for each in pod["volumes"]}
        claims = {each["metadata"]["name"] for each in workload["spec"].get("volumeClaimTemplates", [])}
        for volume in volumes.values():
            if "configMap" in volume:
                source(objects, "ConfigMap", volume["configMap"]["name"], why)
            if "secret" in volume:
                source(objects, "Secret", volume["secret"]["secretName"], why)
        for container in pod["containers"]:
            check_restricted(why, pod, container)
            check_container(objects, why, container, volumes, claims, ports_of(workload))


def check_container(objects, why, container, volumes, claims, ports):
    for mount in container["volumeMounts"]:
        expect(mount["name"] in volumes or mount["name"] in claims, f"{why} mounts {mount['name']}, which is no volume")
    used = {mount["name"] for mount in container["volumeMounts"]}
    expect(used >= set(volumes), f"{why} has volumes that nobody mounts: {set(volumes) - used}")
    for variable in container.get("env", []):
        reference = variable.get("valueFrom", {}).get("configMapKeyRef")
        if reference:
            keys = source(objects, "ConfigMap", reference["name"], why)
            expect(reference["key"] in keys, f"{why}: {reference['name']} has no {reference['key']}")
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        expect(container[probe]["httpGet"]["port"] in ports, f"{why}: the {probe} asks a port that there is not")
    expect("memory" in container["resources"]["limits"], f"{why} has no limit of memory")
    expect({"cpu", "memory"} <= set(container["resources"]["requests"]), f"{why} reserves nothing")


def check_restricted(why, pod, container):
    """The restricted level of Pod Security Standards."""
    allowed = {"configMap", "emptyDir", "projected", "secret", "downwardAPI", "persistentVolumeClaim", "csi", "ephemeral"}
    for volume in pod["volumes"]:
        expect(set(volume) - {"name"} <= allowed, f"{why} has a volume that is not restricted")
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        expect(not pod.get(key), f"{why} has {key}")
    expect(pod["securityContext"]["runAsNonRoot"] is True, f"{why} may run as root")
    expect(pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault", f"{why} has no seccomp profile")
    context = container["securityContext"]
    expect(context["allowPrivilegeEscalation"] is False, f"{why} may become more")
    expect(context["capabilities"] == {"drop": ["ALL"]}, f"{why} has capabilities")
    expect(context["readOnlyRootFilesystem"] is True, f"{why} may write its image")


def check_selectors(objects):
    for service in objects.of("Service"):
        found = objects.selected(service["spec"]["selector"])
        expect(found, f"{name_of(service)} selects nobody")
        for port in service["spec"]["ports"]:
            for workload in found:
                expect(port["targetPort"] in ports_of(workload), f"{name_of(service)}: {name_of(workload)} has no port {port}")
    for each in objects.of("PodDisruptionBudget"):
        expect(objects.selected(each["spec"]["selector"]["matchLabels"]), f"{name_of(each)} is about nobody")
    for each in objects.of("HorizontalPodAutoscaler"):
        target = each["spec"]["scaleTargetRef"]
        workload = objects.one(target["kind"], target["name"], name_of(each))
        expect("replicas" not in workload["spec"], f"{name_of(workload)} says how many, and so does {name_of(each)}")
    for each in objects.of("StatefulSet"):
        objects.one("Service", each["spec"]["serviceName"], name_of(each))
    for policy in objects.of("NetworkPolicy"):
        found = objects.selected(policy["spec"]["podSelector"].get("matchLabels"))
        expect(found, f"{name_of(policy)} is about nobody")
        for rule in policy["spec"].get("ingress", []):
            for port in rule["ports"]:
                known = [port["port"] in ports_of(workload) for workload in found]
                expect(all(known), f"{name_of(policy)}: nobody has the port {port['port']}")


def check_network(objects):
    """With policies at all, every port that somebody has a use for is open."""
    if not objects.of("NetworkPolicy"):
        return
    for workload in objects.workloads():
        labels = workload["spec"]["template"]["metadata"]["labels"]
        opened = set()
        for policy in objects.of("NetworkPolicy"):
            if policy["spec"]["podSelector"].get("matchLabels", {}).items() <= labels.items():
                opened |= {port["port"] for rule in policy["spec"].get("ingress", []) for port in rule["ports"]}
        expect(opened == set(ports_of(workload)), f"{name_of(workload)}: {opened} are open, and {set(ports_of(workload))} are its ports")


def granted(objects, account):
    """All that a service account may do: group, resource, verb, name."""
    out = set()
    for binding in objects.of("RoleBinding", "ClusterRoleBinding"):
        role = objects.one(binding["roleRef"]["kind"], binding["roleRef"]["name"], name_of(binding))
        for subject in binding["subjects"]:
            objects.one("ServiceAccount", subject["name"], name_of(binding))
            expect(subject["namespace"] == NAMESPACE, f"{name_of(binding)} is about another namespace")
            if subject["name"] != account:
                continue
            for rule in role["rules"]:
                for group in rule["apiGroups"]:
                    for resource in rule["resources"]:
                        for verb in rule["verbs"]:
                            out |= {(group, resource, verb, name) for name in rule.get("resourceNames", [None])}
    return out


def check_rights(objects):
    accounts = {each["metadata"]["name"] for each in objects.of("ServiceAccount")}
    expect(accounts == set(CALLS), f"service accounts are {accounts}")
    for account, calls in CALLS.items():
        have = granted(objects, account)
        # Those of components/discovery are the same, for all namespaces.
        expect(have == calls, f"{account}: missing {calls - have}, too much {have - calls}")


def check_webhook(objects):
    for configuration in objects.of("MutatingWebhookConfiguration"):
        for webhook in configuration["webhooks"]:
            at = webhook["clientConfig"]["service"]
            service = objects.one("Service", at["name"], webhook["name"])
            ports = {port["port"] for port in service["spec"]["ports"]}
            expect(at["namespace"] == NAMESPACE and at["port"] in ports, f"{webhook['name']} asks {at}")
            expect(at["path"] == "/inject", f"{webhook['name']} asks {at}")
            exempt = [each for each in webhook["namespaceSelector"]["matchExpressions"] if each["operator"] == "NotIn"]
            expect({NAMESPACE, "kube-system"} <= set(exempt[0]["values"]), f"{webhook['name']} could wait for itself")
            expect(webhook["reinvocationPolicy"] == "IfNeeded", f"{webhook['name']} misses what others add")


def environment_of(objects, container):
    out = {}
    for variable in container.get("env", []):
        reference = variable.get("valueFrom", {}).get("configMapKeyRef")
        if reference and ("ConfigMap", reference["name"]) in BY_HAND:
            out[variable["name"]] = "ab" * 32
        elif reference:
            out[variable["name"]] = objects.by[("ConfigMap", reference["name"])]["data"][reference["key"]]
        elif "value" in variable:
            out[variable["name"]] = variable["value"]
    return out


def check_programs(objects, outrigger, scratch):
    """The programs know their arguments, and have nothing to say against their settings; ports are those of the settings."""
    for workload in objects.workloads():
        why = name_of(workload)
        pod = workload["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        image = container["image"].split(":")[0]
        args, env = container["args"], environment_of(objects, container)
        clean = {"PATH": os.environ["PATH"], **env}
        asked = subprocess.run(
            [outrigger, *PROGRAMS[image], *args, "--help"], capture_output=True, text=True, env=clean, check=False
        )
        expect(asked.returncode == 0, f"{why}: {args} are not understood: {asked.stderr}")
        path = pathlib.PurePosixPath(args[args.index("--config") + 1])
        mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
        volumes = {each["name"]: each for each in pod["volumes"]}
        settings = volumes[mounts[str(path.parent)]]["configMap"]["name"]
        text = objects.by[("ConfigMap", settings)]["data"][path.name]
        file = scratch / path.name
        file.write_text(text)
        kind = SETTINGS[path.name]
        checked = subprocess.run(
            [outrigger, "validate", "--kind", kind, "--environment", str(file)],
            capture_output=True, text=True, env=clean, check=False,
        )
        expect(checked.returncode == 0, f"{why}: {checked.stdout}{checked.stderr}")
        values = [*strings(yaml.safe_load(text)), *env.values()]
        check_files(why, values, container, volumes)
        said = {int(value.rpartition(":")[2]) for value in listens(yaml.safe_load(text))}
        expect(said == set(ports_of(workload).values()), f"{why} listens at {said}, and its ports are {ports_of(workload)}")


def listens(settings):
    for key, value in settings.items():
        if key == "listen":
            yield value
        elif isinstance(value, dict):
            yield from listens(value)


def check_files(why, values, container, volumes):
    """Files that settings and variables name are mounted, and are in what is mounted there."""
    for value in values:
        if not value.startswith("/"):
            continue
        path = pathlib.PurePosixPath(value)
        mounts = [each for each in container["volumeMounts"] if path.is_relative_to(each["mountPath"])]
        expect(mounts, f"{why}: {value} is in no volume")
        nearest = max(mounts, key=lambda each: len(each["mountPath"]))
        volume = volumes.get(nearest["name"], {})
        if "secret" in volume:
            keys = BY_HAND[("Secret", volume["secret"]["secretName"])]
            expect(path.name in keys, f"{why}: {value} is not in {volume}")
        if "projected" in volume:
            sources = {each["serviceAccountToken"]["path"] for each in volume["projected"]["sources"]}
            expect(path.name in sources, f"{why}: {value} is not in {volume}")


def strings(value):
    if isinstance(value, dict):
        for each in value.values():
            yield from strings(each)
    elif isinstance(value, list):
        for each in value:
            yield from strings(each)
    elif isinstance(value, str):
        yield value


def check_settings_agree(objects):
    """Names that one part says of another are names of Services."""
    names = {f"{each['metadata']['name']}.{NAMESPACE}.svc" for each in objects.of("Service")}
    ports = {
        f"{each['metadata']['name']}.{NAMESPACE}.svc:{port['port']}"
        for each in objects.of("Service")
        for port in each["spec"]["ports"]
    }
    mesh = objects.settings("outrigger-mesh")
    expect(mesh["ca_url"].removeprefix("https://") in ports, f"nobody is at {mesh['ca_url']}")
    inject = yaml.safe_load(objects.settings("outrigger-injector-settings")["inject.yaml"])
    expect(set(inject["mesh"]["ingress"]) <= ports, f"nobody is at {inject['mesh']['ingress']}")
    configuration = inject["webhook"].get("configuration")
    if configuration:
        objects.one("MutatingWebhookConfiguration", configuration, "inject.yaml")
    ca = yaml.safe_load(objects.settings("outrigger-ca-settings")["ca.yaml"])
    rules = {each["service_account"]: each["service"] for each in ca["kubernetes"]["rules"]}
    expect(rules == {"outrigger-ingress": "ingress", "outrigger-injector": "injector"}, f"rules are {rules}")
    for service, host in ca["hosts"].items():
        expect(service in rules.values() and host in names, f"nobody is {host}")
    for each in objects.of("Certificate"):
        expect(set(each["spec"]["dnsNames"]) <= names, f"{name_of(each)} is for somebody else")


def closed(schema):
    """The schema as strict decoding has it: unknown fields are mistakes."""
    if isinstance(schema, dict):
        out = {key: closed(value) for key, value in schema.items()}
        if isinstance(schema.get("properties"), dict):
            out["additionalProperties"] = False
        return out
    return [closed(each) for each in schema] if isinstance(schema, list) else schema


def validator_of(objects, name):
    """What an API server holds the `spec` of a custom resource to; ports are texts or numbers."""
    (version,) = objects.one("CustomResourceDefinition", name, "k8s/base/crds")["spec"]["versions"]
    schema = closed(version["schema"]["openAPIV3Schema"]["properties"]["spec"])
    return jsonschema.Draft202012Validator(schema)


def check_services(objects):
    """The custom resource takes what the page says of it, and refuses what it can."""
    validator = validator_of(objects, "meshservices.mcpx.io")
    documents = list(documents_of(ROOT / "docs/DISCOVERY.md", "MeshService"))
    expect(documents, "docs/DISCOVERY.md has an object to try")
    for document in documents:
        for error in validator.iter_errors(document["spec"]):
            raise Failed(f"an object that is good is refused: {document['metadata']}: {error.message} at {error.json_path}")
    for what, wrong in {
        "an unknown word": {"servce": "files"},
        "somebody else's identity": {"spiffe_id": "spiffe://demo/other"},
        "a wrong name": {"name": "File_Server"},
        "too many attempts": {"retries": {"attempts": 99}},
        "no replicas": {"max_replicas": 0},
    }.items():
        expect(not validator.is_valid(wrong), f"a MeshService with {what} fits the schema")


def check_policies(objects, outrigger, scratch):
    """The custom resource takes what the programs take, and refuses what it can."""
    validator = validator_of(objects, "securitypolicies.mcpx.io")
    files = [ROOT / "compose/policy.yaml", *sorted((ROOT / "sidecar/policy").glob("*.yaml"))]
    documents = [each for file in files for each in yaml.safe_load_all(file.read_text())]
    documents += documents_of(ROOT / "docs/POLICY.md", "SecurityPolicy")
    expect(len(documents) >= 5, "there are policies to try")
    for document in documents:
        for error in validator.iter_errors(document["spec"]):
            raise Failed(f"a policy that is good is refused: {document['metadata']}: {error.message} at {error.json_path}")
    rule = {"name": "r", "services": ["fs"], "capabilities": ["*"]}
    for what, wrong in {
        "an unknown word": {**rule, "effects": "deny"},
        "a wrong word": {**rule, "effect": "maybe"},
        "no services": {**rule, "services": []},
        "two words in one entry": {**rule, "requires": [{"scope": "a", "role": "b"}]},
        "an empty entry": {**rule, "requires": [{}]},
        "no name": {"services": ["fs"], "capabilities": ["*"]},
    }.items():
        spec = {"authorization": {"rules": [wrong]}}
        expect(not validator.is_valid(spec), f"a policy with {what} fits the schema")
        file = scratch / "wrong.yaml"
        file.write_text(json.dumps(
            {"apiVersion": "mcpx.io/v1", "kind": "SecurityPolicy", "metadata": {"name": "w"}, "spec": spec}))
        checked = subprocess.run([outrigger, "validate", "--kind", "policy", str(file)], capture_output=True, check=False)
        expect(checked.returncode == 1, f"a policy with {what} is good to `outrigger validate`")


def documents_of(page, kind):
    """The whole objects of a kind among the examples of a page."""
    for block in page.read_text().split("```yaml\n")[1:]:
        for document in yaml.safe_load_all(block.split("```")[0]):
            if isinstance(document, dict) and document.get("kind") == kind and "spec" in document:
                yield document


def check(objects, outrigger, scratch):
    check_schemas(objects)
    check_names(objects)
    check_pods(objects)
    check_selectors(objects)
    check_network(objects)
    check_rights(objects)
    check_webhook(objects)
    check_settings_agree(objects)
    check_programs(objects, outrigger, scratch)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--outrigger", required=True, help="the program")
    parser.add_argument("--kubectl", required=True)
    args = parser.parse_args()
    failures = 0
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        renderings = [("base", ROOT / "k8s/base", [])]
        renderings += [(" + ".join(each), overlay(scratch, each), each) for each in combinations()]
        for name, directory, components in renderings:
            try:
                objects = Objects(render(args.kubectl, directory))
                check(objects, args.outrigger, scratch)
                check_combined(objects, components)
                if name == "base":
                    check_policies(objects, args.outrigger, scratch)
                    check_services(objects)
                print(f"ok    {name} ({len(objects.all)} objects)")
            except Failed as failed:
                failures += 1
                print(f"FAIL  {name}: {failed}")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
