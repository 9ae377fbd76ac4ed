"""The reference server's tools, prompts and resources: one for each feature that the matrix tries."""

from __future__ import annotations

import base64
import json
import threading
from pathlib import Path
from typing import Callable

from core import LEGACY, LEVELS, MODERN, P, PATIENCE, Call, Refuse

TASKS = P + "tasks"
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
SAMPLE = {"messages": [{"role": "user", "content": {"type": "text", "text": "hi"}}], "maxTokens": 5}
SAMPLE_TOOLS = {**SAMPLE, "tools": [{"name": "dice", "inputSchema": {"type": "object"}}], "toolChoice": {"mode": "auto"}}
UNDECLARED = "undeclared"


def text(value: object) -> dict:
    return {"content": [{"type": "text", "text": value if isinstance(value, str) else json.dumps(value, sort_keys=True)}]}


# --- tools: named by their functions; the annotation `since` is the first revision that can have it.
def tool_echo(call: Call) -> dict:
    return text(call.arguments.get("text", ""))


def tool_meta(call: Call) -> dict:
    return text({"meta": call.meta, "caps": call.caps})


def tool_fail(call: Call) -> dict:
    return {**text("it failed"), "isError": True}


def tool_structured(call: Call) -> dict:
    value = {"answer": 42, "exact": 1}
    return {**text(value), "structuredContent": value}


def tool_link(call: Call) -> dict:
    link = {"type": "resource_link", "uri": "test://static", "name": "static"}
    return {"content": [{"type": "text", "text": "see"}, link]}


def tool_embedded(call: Call) -> dict:
    return {"content": [{"type": "resource", "resource": {"uri": "test://static", "text": "static text"}}]}


def tool_progress(call: Call) -> dict:
    for n in (1, 2, 3):
        call.progress(n, 3)
    return text("done")


def tool_hold(call: Call) -> dict:
    """Runs until it is cancelled; `was_cancelled` with the same key waits for that."""
    call.progress(1, 2)
    if not call.server.wait(call.cancelled):
        return text("nobody cancelled")
    call.server.note_cancelled(call.arguments["key"])
    return text("cancelled")


def tool_was_cancelled(call: Call) -> dict:
    key = call.arguments["key"]
    return text("yes" if call.server.wait(lambda: key in call.server.cancelled, PATIENCE / 2) else "no")


def tool_touch(call: Call) -> dict:
    call.server.resource_updated(call.arguments["uri"])
    return text("touched")


def tool_logs(call: Call) -> dict:
    for level in LEVELS:
        call.log(level)
    return text("logged")


def tool_count(call: Call) -> dict:
    """State of the session."""
    call.session.count += 1
    return text(str(call.session.count))


def tool_elicit(call: Call) -> dict:
    if "elicitation" not in call.caps:
        return text(UNDECLARED)
    return text(call.ask("e", "elicitation/create", {"message": "who?", "requestedSchema": SCHEMA}))


def tool_visit(call: Call) -> dict:
    """Elicitation by URL."""
    if "url" not in (call.caps.get("elicitation") or {}):
        return text(UNDECLARED)
    params = {"mode": "url", "message": "log in", "url": "https://example.com/login"}
    if not call.server.modern:
        params["elicitationId"] = "visit-1"
    answer = call.ask("u", "elicitation/create", params)
    if not call.server.modern:
        call.session.notify("notifications/elicitation/complete", {"elicitationId": "visit-1"})
    return text(answer)


def tool_visit_first(call: Call) -> dict:
    """The error that asks for a visit to a URL; the second try of a session succeeds. With a key it says when it is over."""
    if "url" not in (call.caps.get("elicitation") or {}):
        return text(UNDECLARED)
    call.session.count += 1
    if call.arguments.get("done") or call.session.count > 1:
        return text("welcome")
    wanted = {"mode": "url", "elicitationId": "first-1", "url": "https://example.com/first", "message": "log in"}
    if key := call.arguments.get("key"):

        def complete() -> None:
            call.session.notify("notifications/elicitation/complete", {"elicitationId": "first-1"})
            call.server.outside(key, {"said": True})

        after(call, complete)
    raise Refuse(-32042, "URL elicitation required", {"elicitations": [wanted]})


def tool_sample(call: Call) -> dict:
    if "sampling" not in call.caps:
        return text(UNDECLARED)
    return text(call.ask("s", "sampling/createMessage", SAMPLE))


def tool_sample_tools(call: Call) -> dict:
    if "tools" not in (call.caps.get("sampling") or {}):
        return text(UNDECLARED)
    return text(call.ask("t", "sampling/createMessage", SAMPLE_TOOLS))


def tool_roots(call: Call) -> dict:
    if "roots" not in call.caps:
        return text(UNDECLARED)
    return text(call.ask("r", "roots/list", {}))


def tool_interview(call: Call) -> dict:
    """Three questions, one after the other."""
    if not {"sampling", "roots"} <= set(call.caps):
        return text(UNDECLARED)
    roots = call.ask("r", "roots/list", {})
    said = call.ask("s", "sampling/createMessage", SAMPLE)
    again = call.ask("r2", "roots/list", {})
    return text([roots, said, again])


def after(call: Call, then: Callable[[], None]) -> dict:
    """Does something once the call is over, which the client says when it has the answer: by a file with the name `key`."""
    go = Path(call.server.sins_file).with_name(call.arguments["key"])

    def later() -> None:
        if call.server.wait(go.exists):
            then()

    threading.Thread(target=later, daemon=True).start()
    return text("later")


def tool_outside(call: Call) -> dict:
    """Asks for roots when the call is over."""
    session = call.session
    return after(call, lambda: call.server.outside(call.arguments["key"], session.ask(session.send, "roots/list", {})))


def tool_whisper(call: Call) -> dict:
    """A log message when the call is over."""
    key = call.arguments["key"]

    def say() -> None:
        call.session.notify("notifications/message", {"level": "error", "data": f"whisper {key}"})
        call.server.outside(key, {"said": True})

    return after(call, say)


def tool_grow(call: Call) -> dict:
    """Adds a tool, or takes it away again."""
    name, grown = call.arguments["name"], call.grown
    if call.arguments.get("away"):
        grown.remove(name)
    else:
        grown.append(name)
    if call.server.modern:
        call.server.tools_changed()
    else:
        call.session.notify("notifications/tools/list_changed")
    return text("grown")


def tool_slow(call: Call) -> dict:
    """May run as a task."""
    return text("slow result")


SINCE = {"structured": "2025-06-18", "link": "2025-06-18", "elicit": "2025-06-18", "visit": "2025-11-25",
         "visit_first": "2025-11-25", "sample_tools": "2025-11-25", "slow": "2025-11-25"}
LEGACY_ONLY = {"count", "outside", "whisper", "visit_first"}
TOOLS: dict[str, Callable[[Call], dict]] = {n[5:]: f for n, f in list(globals().items()) if n.startswith("tool_")}


def tools_of(revision: str) -> list[dict]:
    """The definitions that a server of this revision offers."""
    out = []
    for name in TOOLS:
        if revision < SINCE.get(name, "") or (revision >= MODERN and name in LEGACY_ONLY):
            continue
        tool: dict = {"name": name, "description": f"Tries {name}.", "inputSchema": {"type": "object"}}
        if name == "structured":
            tool["outputSchema"] = {"type": "object", "properties": {"answer": {"type": "integer"}}}
        if name == "slow" and revision in LEGACY:
            tool["execution"] = {"taskSupport": "optional"}
        if revision >= "2025-06-18":
            tool["title"] = f"Title of {name}"
        out.append(tool)
    return out


def resources() -> list[dict]:
    return [{"uri": f"test://{n}", "name": n, "mimeType": "text/plain"} for n in ("static", "blob", "watched", "quiet")]


def read(call: Call, uri: str) -> dict:
    if uri == "test://blob":
        data = base64.b64encode(bytes(range(256))).decode()
        return {"contents": [{"uri": uri, "mimeType": "application/octet-stream", "blob": data}]}
    if uri in {r["uri"] for r in resources()} or uri.startswith("test://item/"):
        return {"contents": [{"uri": uri, "mimeType": "text/plain", "text": f"{uri.removeprefix('test://')} text"}]}
    raise Refuse(-32602 if call.server.modern else -32002, "Resource not found", {"uri": uri})


def prompt(call: Call) -> dict:
    if call.params.get("name") != "greet":
        raise Refuse(-32602, f"Unknown prompt: {call.params.get('name')}")
    words = {"type": "text", "text": f"Greet {call.arguments.get('name')}."}
    return {"description": "a greeting", "messages": [{"role": "user", "content": words}]}


def complete(call: Call) -> dict:
    ref, argument = call.params["ref"], call.params["argument"]
    known = {"ref/prompt": ref.get("name") == "greet", "ref/resource": ref.get("uri") == "test://item/{id}"}
    if not known.get(ref["type"]):
        raise Refuse(-32602, "Unknown reference")
    values = [v for v in ("ada", "alan", "grace") if v.startswith(argument["value"])]
    return {"completion": {"values": values, "total": len(values), "hasMore": False}}


def capabilities(revision: str) -> dict:
    caps: dict = {"tools": {"listChanged": True}, "prompts": {}, "resources": {"subscribe": True}, "logging": {}}
    if revision >= "2025-03-26":
        caps["completions"] = {}
    if revision == "2025-11-25":
        caps["tasks"] = {"cancel": {}, "list": {}, "requests": {"tools": {"call": {}}}}
    if revision >= MODERN:
        caps["extensions"] = {TASKS: {}}
    return caps
