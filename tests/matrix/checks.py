"""What is tried for each pair of a client and a server: one function for each feature.

A check returns when the feature works, returns `Lossy(reason)` when it works with a loss that protocol.md or the client's
own revision dictates, and raises when it does not work. `FEATURES` says which revisions have a feature at all.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Awaitable, Callable
from uuid import uuid4

sys.path.insert(0, str(Path(__file__).resolve().parent / "server"))

from drivers.client import MODERN, P, PERSON, ROOTS, SAMPLED, USED, Client, RpcError  # noqa: E402
from features import UNDECLARED, resources, tools_of  # noqa: E402


@dataclass(frozen=True)
class Lossy:
    reason: str


@dataclass(frozen=True)
class Impossible:
    """Refused cleanly, as section 4.7 of the protocol digest says it must be."""

    reason: str


Verdict = Lossy | Impossible | None


class Failed(Exception):
    """Something came that should not, or did not come."""


@dataclass
class Pair:
    """One client at one place, and the revision of the server behind it."""

    client: Client
    server: str
    # What the merged endpoint puts before names and URIs; empty at `/s/<service>/mcp`.
    names: str = ""
    uris: str = ""
    # Where reference servers write what came back for questions outside calls.
    logs: Path = Path()

    async def outside(self, key: str) -> dict:
        """Lets the server go on now that the call is over; returns what came of it."""
        (self.logs / key).touch()
        for _ in range(1000):
            for file in self.logs.glob("*.outside"):
                for line in file.read_text(encoding="utf-8").splitlines():
                    if (told := json.loads(line))["key"] == key:
                        return told["answer"]
            await asyncio.sleep(0.02)
        raise Failed("the server heard nothing")

    def tool(self, name: str) -> str:
        return self.names + name

    def uri(self, uri: str) -> str:
        return self.uris + uri

    async def text(self, name: str, arguments: dict | None = None, **more) -> str:
        result = await self.client.call(self.tool(name), arguments, **more)
        same(result.get("isError", False), False, f"isError of {name}: {result}")
        return result["content"][0]["text"]

    async def json(self, name: str, arguments: dict | None = None):
        said = await self.text(name, arguments)
        return said if said == UNDECLARED else json.loads(said)


def same(got, wanted, what: str = "") -> None:
    if got != wanted:
        raise Failed(f"{what + ': ' if what else ''}got {got!r}, wanted {wanted!r}"[:400])


async def pages(pair: Pair, method: str, kind: str) -> list[dict]:
    out, cursor = [], None
    for _ in range(50):
        result = await pair.client.request(method, {"cursor": cursor} if cursor is not None else {})
        out += result[kind]
        if (cursor := result.get("nextCursor")) is None:
            return out
    raise Failed(f"{method}: more than 50 pages")


async def listing(pair: Pair) -> Verdict:
    tools = [t for t in await pages(pair, "tools/list", "tools") if t["name"].startswith(pair.names)]
    wanted = tools_of(pair.server)
    same([t["name"] for t in tools], [pair.tool(t["name"]) for t in wanted], "tools")
    uris = {r["uri"] for r in await pages(pair, "resources/list", "resources")}
    same({pair.uri(r["uri"]) for r in resources()} - uris, set(), "resources that are missing")
    templates = {t["uriTemplate"] for t in await pages(pair, "resources/templates/list", "resourceTemplates")}
    same(pair.uri("test://item/{id}") in templates, True, f"the template among {templates}")
    prompts = {p["name"] for p in await pages(pair, "prompts/list", "prompts")}
    same(pair.tool("greet") in prompts, True, f"the prompt among {prompts}")
    schemas = {t["name"]: t["inputSchema"] for t in tools}
    same(all(s == {"type": "object"} for s in schemas.values()), True, "input schemas are the server's own")
    return None


async def call(pair: Pair) -> Verdict:
    said = 'hé "quoted" \u2028 \U0001f980'
    same(await pair.text("echo", {"text": said}), said)
    return None


async def structured(pair: Pair) -> Verdict:
    result = await pair.client.call(pair.tool("structured"))
    same(json.loads(result["content"][0]["text"]), {"answer": 42, "exact": 1})
    if pair.client.revision >= "2025-06-18":
        same(result.get("structuredContent"), {"answer": 42, "exact": 1})
        return None
    same(result.get("structuredContent"), None, "structuredContent for a client that does not know it")
    return Lossy("the client's revision has no structured content; the text remains")


async def link(pair: Pair) -> Verdict:
    content = (await pair.client.call(pair.tool("link")))["content"]
    if pair.client.revision >= "2025-06-18":
        same([c.get("uri") for c in content], [None, pair.uri("test://static")])
        return None
    same([c["type"] for c in content], ["text", "text"], "content types")
    same("test://static" in content[1]["text"], True, f"the URI in {content[1]}")
    return Lossy("the client's revision has no resource links; the link becomes a text with its URI")


async def embedded(pair: Pair) -> Verdict:
    content = (await pair.client.call(pair.tool("embedded")))["content"]
    same(content[0]["resource"]["uri"], pair.uri("test://static"))
    return None


async def progress(pair: Pair) -> Verdict:
    for token in ("text-token", 7):
        same(await pair.text("progress", token=token), "done")
        got = [p for m, p in pair.client.notes if m == "notifications/progress" and p["progressToken"] == token]
        same([(p["progress"], p["total"]) for p in got], [(1, 3), (2, 3), (3, 3)], f"progress of {token!r}")
    return None


async def cancel(pair: Pair) -> Verdict:
    key = f"{id(pair)}"
    await pair.client.cancel_call(pair.tool("hold"), {"key": key}, token=f"hold-{key}")
    same(await pair.text("was_cancelled", {"key": key}), "yes", "the server was told")
    return None


async def reading(pair: Pair) -> Verdict:
    for uri, wanted in (("test://static", "static text"), ("test://item/7", "item/7 text")):
        contents = (await pair.client.request("resources/read", {"uri": pair.uri(uri)}))["contents"]
        same([(c["uri"], c["text"]) for c in contents], [(pair.uri(uri), wanted)])
    contents = (await pair.client.request("resources/read", {"uri": pair.uri("test://blob")}))["contents"]
    same(len(contents[0]["blob"]), 344, "length of the blob")
    return None


async def subscribe(pair: Pair) -> Verdict:
    uri = pair.uri("test://watched")
    await pair.client.subscribe(uri)
    same(await pair.text("touch", {"uri": "test://quiet"}), "touched")
    same(await pair.text("touch", {"uri": "test://watched"}), "touched")
    await pair.client.saw("notifications/resources/updated", lambda p: p["uri"] == uri)
    others = [p["uri"] for m, p in pair.client.notes if m == "notifications/resources/updated" and p["uri"] != uri]
    same(others, [], "updates that nobody asked for")
    return None


async def growing(pair: Pair) -> Verdict:
    """A tool that comes by a call and goes by another: told, listed, callable."""
    name = f"sprout-{uuid4().hex}"
    await pair.client.listen_to_lists()

    def told() -> int:
        return sum(method == "notifications/tools/list_changed" for method, _ in pair.client.notes)

    async def listed(before: int, wanted: bool) -> None:
        """Whoever hears of a change finds the new list. The merged endpoint tells of changes of other services as well."""
        while True:
            await pair.client.saw("notifications/tools/list_changed", lambda _: told() > before)
            before = told()
            there = pair.tool(name) in {t["name"] for t in await pages(pair, "tools/list", "tools")}
            if there == wanted or not pair.names:
                same(there, wanted, "whether the tool is listed")
                return

    before = told()
    same(await pair.text("grow", {"name": name}), "grown")
    try:
        await listed(before, True)
        same(await pair.text(name), f"I am {name}")
    finally:
        before = told()
        same(await pair.text("grow", {"name": name, "away": True}), "grown")
        # Later checks compare lists.
        await listed(before, False)
    return None


async def prompt(pair: Pair) -> Verdict:
    result = await pair.client.request("prompts/get", {"name": pair.tool("greet"), "arguments": {"name": "Ada"}})
    same(result["messages"][0]["content"]["text"], "Greet Ada.")
    return None


async def completion(pair: Pair) -> Verdict:
    refs = ({"type": "ref/prompt", "name": pair.tool("greet")}, {"type": "ref/resource", "uri": pair.uri("test://item/{id}")})
    for ref in refs:
        params = {"ref": ref, "argument": {"name": "name", "value": "a"}}
        same((await pair.client.request("completion/complete", params))["completion"]["values"], ["ada", "alan"])
    return None


async def logging(pair: Pair) -> Verdict:
    await pair.client.set_level("error")
    same(await pair.text("logs"), "logged")
    await pair.client.saw("notifications/message", lambda p: p["level"] == "emergency")
    levels = [p["level"] for m, p in pair.client.notes if m == "notifications/message" and p["data"] == p["level"]]
    same(levels, ["error", "critical", "alert", "emergency"])
    return None


async def elicitation(pair: Pair) -> Verdict:
    same(await pair.json("elicit"), {"action": "accept", "content": PERSON})
    return None


VISIT_OVER = Lossy("whether the visit is over is not told: 2026-07-28 has no such message")


async def visit(pair: Pair) -> Verdict:
    same((await pair.json("visit")).get("action"), "accept")
    if pair.client.modern and pair.server >= MODERN:
        return None
    if pair.client.modern or pair.server >= MODERN:
        return VISIT_OVER
    await pair.client.saw("notifications/elicitation/complete")
    return None


async def visit_first(pair: Pair) -> Verdict:
    if pair.client.modern:
        # Asked as an `input_required`, and the call repeated after the answer.
        before = pair.client.questions.count("elicitation/create")
        same(await pair.text("visit_first"), "welcome")
        same(pair.client.questions.count("elicitation/create") - before <= 1, True, "at most one question")
        return VISIT_OVER
    key = f"visit-{uuid4().hex}"
    try:
        same(await pair.text("visit_first", {"key": key}), "welcome")
        raise Failed("no error that asks for a visit")
    except RpcError as error:
        same((error.code, error.data["elicitations"][0]["url"]), (-32042, "https://example.com/first"))
    await pair.outside(key)
    await pair.client.saw("notifications/elicitation/complete", lambda p: p["elicitationId"] == "first-1")
    same(await pair.text("visit_first", {"done": True}), "welcome")
    return None


async def sampling(pair: Pair) -> Verdict:
    same(await pair.json("sample"), SAMPLED)
    return None


async def sampling_tools(pair: Pair) -> Verdict:
    same(await pair.json("sample_tools"), USED)
    return None


async def roots(pair: Pair) -> Verdict:
    same(await pair.json("roots"), ROOTS)
    return None


async def interview(pair: Pair) -> Verdict:
    same(await pair.json("interview"), [ROOTS, SAMPLED, ROOTS])
    return None


async def outside(pair: Pair) -> Verdict:
    key = f"outside-{uuid4().hex}"
    same(await pair.text("outside", {"key": key}), "later")
    got = await pair.outside(key)
    if pair.client.modern:
        same(got.get("error", {}).get("code"), -32601, f"the refusal: {got}")
        return Impossible("nothing asks a client of 2026-07-28 outside its calls; the server is refused")
    same(got.get("result"), ROOTS, f"the answer: {got}")
    return None


async def whisper(pair: Pair) -> Verdict:
    key = f"whisper-{uuid4().hex}"
    same(await pair.text("whisper", {"key": key}), "later")
    if pair.client.modern:
        await pair.outside(key)
        same(await pair.text("progress"), "done")
        same([p for _, p in pair.client.notes if p.get("data") == f"whisper {key}"], [])
        return Impossible("2026-07-28 has log messages of a call only; it cannot be said whose this is")
    await pair.outside(key)
    await pair.client.saw("notifications/message", lambda p: p["data"] == f"whisper {key}")
    return None


async def state(pair: Pair) -> Verdict:
    first, second = int(await pair.text("count")), int(await pair.text("count"))
    if pair.client.modern:
        same(second > first, True, f"{first} then {second}")
        return Lossy("a client of 2026-07-28 has no session: its principal's calls share one")
    same(second - first, 1, f"{first} then {second}")
    return None


async def errors(pair: Pair) -> Verdict:
    result = await pair.client.call(pair.tool("fail"))
    same((result.get("isError"), result["content"][0]["text"]), (True, "it failed"))
    tries = [
        ("tools/call", {"name": pair.tool("nothing"), "arguments": {}}, -32602),
        ("prompts/get", {"name": pair.tool("nothing")}, -32602),
        ("vendor/unknown", {}, -32601),
        ("resources/read", {"uri": pair.uri("test://nothing")}, pair.client.not_found),
    ]
    for method, params, code in tries:
        try:
            raise Failed(f"{method} gave {await pair.client.request(method, params)}")
        except RpcError as error:
            # One SDK has no code where the status of HTTP is an error, but the whole body.
            same(error.code or (f'"code":{code},' in str(error) and code), code, f"code of {method} ({error})")
    # And the session is none the worse for it.
    return await call(pair)


async def ping(pair: Pair) -> Verdict:
    same({k: v for k, v in (await pair.client.request("ping")).items() if k != "_meta"}, {})
    return None


async def tasks(pair: Pair) -> Verdict:
    if pair.client.modern:
        begun = await pair.client.call(pair.tool("slow"))
        same(begun.get("resultType"), "task", f"resultType of {begun}")
        done = await finished(pair, begun["taskId"])
        same(done["result"]["content"][0]["text"], "slow result")
        return None
    begun = (await pair.client.call(pair.tool("slow"), task={"ttl": 60000}))["task"]
    await finished(pair, begun["taskId"])
    result = await pair.client.request("tasks/result", {"taskId": begun["taskId"]})
    same(result["content"][0]["text"], "slow result")
    if pair.server >= MODERN:
        return Lossy("2026-07-28 has no `tasks/list`")
    return None


async def finished(pair: Pair, task: str) -> dict:
    for _ in range(200):
        got = await pair.client.request("tasks/get", {"taskId": task})
        if got["status"] == "completed":
            return got
        await asyncio.sleep(got.get("pollInterval", got.get("pollIntervalMs", 20)) / 1000)
    raise Failed(f"never completed: {got}")


@dataclass(frozen=True)
class Feature:
    """One row of the table. Below `client` or `server` a revision has no such thing, above `*_until` neither."""

    name: str
    run: Callable[[Pair], Awaitable[Verdict]]
    client: str = ""
    server: str = ""
    client_until: str = MODERN
    server_until: str = MODERN
    # The tool that says UNDECLARED for a client without the capability, where there is one.
    undeclared: str = ""

    def absent(self, client: str, server: str) -> str | None:
        """Why the pair has no such feature, if it has not."""
        if not self.client <= client <= self.client_until:
            return f"{client} has no {self.name}"
        if not self.server <= server <= self.server_until:
            return f"{server} has no {self.name}"
        return None


LAST_LEGACY = "2025-11-25"
FEATURES = [
    Feature("lists", listing),
    Feature("calls", call),
    Feature("structured results", structured, server="2025-06-18"),
    Feature("resource links", link, server="2025-06-18"),
    Feature("embedded resources", embedded),
    Feature("progress", progress),
    Feature("cancellation", cancel),
    Feature("reading resources", reading),
    Feature("resource subscriptions", subscribe),
    Feature("changes of lists", growing),
    Feature("prompts", prompt),
    Feature("completion", completion),
    Feature("logging in calls", logging),
    Feature("logging outside calls", whisper, server_until=LAST_LEGACY),
    Feature("elicitation (form)", elicitation, "2025-06-18", "2025-06-18", undeclared="elicit"),
    Feature("elicitation (URL)", visit, "2025-11-25", "2025-11-25", undeclared="visit"),
    Feature("URL demanded by an error", visit_first, "2025-11-25", "2025-11-25", server_until=LAST_LEGACY),
    Feature("sampling", sampling),
    Feature("sampling with tools", sampling_tools, "2025-11-25", "2025-11-25", undeclared="sample_tools"),
    Feature("roots", roots),
    Feature("several questions", interview),
    Feature("questions outside calls", outside, server_until=LAST_LEGACY),
    Feature("state of the session", state, server_until=LAST_LEGACY),
    Feature("errors", errors),
    Feature("ping", ping, client_until=LAST_LEGACY),
    Feature("tasks", tasks, "2025-11-25", "2025-11-25"),
]
