"""compose/observability.yaml: Prometheus finds and scrapes every part, each expression of alerts and dashboards can be asked and names
metrics that exist, and what was called shows."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.parse
from collections.abc import Iterator

import images
from checks import Checks
from images import ROOT
from project import Project, eventually

RULES = ROOT / "compose/prometheus"
# What Prometheus itself makes.
OWN = {"up"}
NAME = re.compile(r"\b(?:outrigger_[a-z_]+|up)\b")


def run(checks: Checks) -> None:
    promtool = checks.work / "promtool"
    for words in (["check", "config", "prometheus.yml"], ["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]):
        done = subprocess.run([promtool, *words], cwd=RULES, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        checks.that(f"promtool {' '.join(words)}", done.returncode == 0, done.stdout)
    names_exist(checks)
    make_image(checks)
    files = ["compose/quickstart.yaml", "compose/observability.yaml"]
    more = {"PROMETHEUS_IMAGE": f"{images.PREFIX}prometheus", "PROMETHEUS_PORT": "0", "GRAFANA_PORT": "0"}
    with checks.project("seen", *files, **more) as project:
        # No image of Grafana can be had without a registry; its files are looked at.
        project.up("ca", "token", "program", "ingress", "fs", "time", "vector-net", "vector-sidecar", "vector", "prometheus")
        scraped(checks, project)


def expressions() -> Iterator[tuple[str, str]]:
    """Of dashboards and alerts, with the place that has them."""
    for path in sorted((ROOT / "compose/grafana/dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                yield f"{path.name}: {panel['title']}", target["expr"].replace("$service", ".*")
    for line in (RULES / "alerts.yml").read_text().splitlines():
        if line.strip().startswith("expr:"):
            yield "alerts.yml", line.split("expr:", 1)[1].strip()


def names_exist(checks: Checks) -> None:
    known = set(re.findall(r"`(outrigger_[a-z_]+)`", (ROOT / "docs/METRICS.md").read_text())) | OWN
    suffixes = [f"{name}{suffix}" for name in known for suffix in ("_bucket", "_sum", "_count")]
    unknown = {name for _, asked in expressions() for name in NAME.findall(asked)} - known - set(suffixes)
    checks.that("dashboards and alerts name metrics that exist", not unknown, unknown)


def make_image(checks: Checks) -> None:
    context = checks.work / "prometheus-image"
    shutil.rmtree(context, ignore_errors=True)
    context.mkdir()
    shutil.copy(checks.work / "prometheus", context)
    (context / "Dockerfile").write_text('FROM debian:bookworm-slim\nCOPY prometheus /bin/\nENTRYPOINT ["/bin/prometheus"]\n')
    images.build(context, "prometheus")
    shutil.rmtree(context)


def scraped(checks: Checks, project: Project) -> None:
    def ask(path: str, **parameters: str) -> dict:
        return json.loads(project.page("prometheus", 9090, f"/api/v1/{path}?{urllib.parse.urlencode(parameters)}"))["data"]

    def value(expression: str) -> float:
        found = ask("query", query=expression)["result"]
        return float(found[0]["value"][1]) if found else 0.0

    wanted = {"authority": 1, "ingress": 1, "sidecar": 3}
    for job, count in wanted.items():
        eventually(f"{count} of {job}", lambda: value(f'sum(up{{job="{job}"}})') == count)
        checks.that(f"{job} is scraped", True)
    project.up("--scale", "fs=2", "--no-recreate", "fs")
    eventually("the second replica", lambda: value('sum(up{job="sidecar"})') == 4)
    checks.that("a new replica is found by its name", True)
    client = project.client()
    for _ in range(3):
        client.call("fs__listDir")
    calls = 'sum(outrigger_requests_total{job="ingress", service="fs", method="tools/call", outcome="ok"})'
    eventually("the calls", lambda: value(calls) >= 3)
    checks.that("calls are counted", True)
    wrong = []
    for where, expression in expressions():
        try:
            ask("query", query=expression)
        except OSError as error:
            wrong.append((where, expression, error))
    checks.that("each expression can be asked", not wrong, wrong)
    firing = [alert["labels"]["alertname"] for alert in ask("alerts")["alerts"] if alert["state"] == "firing"]
    checks.that("no alert fires in a mesh that works", not firing, firing)
