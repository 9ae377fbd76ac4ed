"""compose/shop.yaml: services that call each other, in one trace, and an order that is taken back."""

from __future__ import annotations

import json

import images
from checks import Checks
from images import ROOT
from project import Client, Project, eventually

SHOP = ROOT / "examples-services/shop"
PARTS = ("order", "inventory", "payment")


def run(checks: Checks) -> None:
    for language, base in (("python", "PYTHON_IMAGE"), ("typescript", "NODE_IMAGE")):
        image = f"{images.PREFIX}{'node' if language == 'typescript' else language}"
        images.build(SHOP, f"outrigger-shop-{language}", "--file", str(SHOP / f"{language}.Dockerfile"), "--build-arg", f"{base}={image}")
    with checks.project("shop", "compose/quickstart.yaml", "compose/shop.yaml") as project:
        project.up("ca", "token", "ingress", *[f"{part}{what}" for part in PARTS for what in ("-net", "-sidecar", "")])
        client = project.client()
        eventually("the shop", lambda: {"order__placeOrder", "inventory__stock"} <= set(client.tools()))
        before = left(client)
        bought = json.loads(client.call("order__placeOrder", item="canoe", quantity=2, card="mine"))
        checks.that("an order is paid", bought["paid"] == 2 * 89_900 and left(client) == before - 2, bought)
        paid = traces(project)
        checks.that("one trace leads through all three", paid["order"] & paid["inventory"] & paid["payment"], paid)
        said = client.call("order__placeOrder", item="canoe", quantity=1, card="declined")
        checks.that("an order that is not paid is taken back", "nothing is reserved or charged" in said and left(client) == before - 2, said)
        released = [line for line in audit(project, "inventory") if line["capability"] == "release"]
        of_orders = {line["trace_id"] for line in audit(project, "order")}
        checks.that("taking back is in the trace of its order", released and released[0]["trace_id"] in of_orders, released)
        who = {line["who"] for line in audit(project, "payment")}
        checks.that("payments know who calls", who == {"spiffe://quickstart.outrigger.local/order"}, who)
        charge = {"name": "payment__charge", "arguments": {"order": "x", "amount": 1, "card": "mine"}}
        refused = client.request("tools/call", "payment__charge", charge).get("error", {})
        checks.that("for clients there is no charging", refused.get("message", "").startswith("Unknown tool"), refused)


def left(client: Client) -> int:
    return json.loads(client.call("inventory__stock", item="canoe"))["left"]


def audit(project: Project, service: str) -> list[dict]:
    """Calls of tools that a sidecar has decided about."""
    lines = [json.loads(line) for line in project.logs(f"{service}-sidecar").splitlines() if line.startswith('{"time"')]
    return [line for line in lines if line.get("action") == "tools/call"]


def traces(project: Project) -> dict[str, set[str]]:
    return {service: {line["trace_id"] for line in audit(project, service)} for service in PARTS}
