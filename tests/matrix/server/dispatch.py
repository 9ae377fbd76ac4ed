"""Requests of the reference server: which methods a revision has, and what answers them."""

from __future__ import annotations

from core import LEGACY, LEVELS, MODERN, P, Call, Refuse, Server, Session
from features import TASKS, TOOLS, capabilities, complete, prompt, read, resources, text, tools_of

INFO = {"name": "reference", "version": "1"}
COMMON = {"tools/list", "tools/call", "resources/list", "resources/templates/list", "resources/read", "prompts/list",
          "prompts/get", "completion/complete"}
LEGACY_METHODS = {"initialize", "ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"}


def methods(revision: str) -> set[str]:
    if revision >= MODERN:
        return COMMON | {"server/discover", "tasks/get", "tasks/cancel", "tasks/update"}
    tasks = {"tasks/get", "tasks/result", "tasks/cancel", "tasks/list"} if revision == "2025-11-25" else set()
    return COMMON | LEGACY_METHODS | tasks


def check_meta(call: Call) -> None:
    """Keys of other eras, and those that never leave the mesh."""
    for key in call.meta:
        if key.startswith("outrigger.dev/") or (not call.server.modern and key == P + "protocolVersion"):
            call.server.sin(f"{call.method} with _meta {key}")
    if call.server.modern:
        version, caps = call.meta.get(P + "protocolVersion"), call.meta.get(P + "clientCapabilities")
        if not isinstance(version, str) or not isinstance(caps, dict):
            call.server.sin(f"{call.method} without the required _meta")
            raise Refuse(-32602, f"missing required _meta; supported versions: {MODERN}", status=400)
        if version != MODERN:
            raise Refuse(-32022, "Unsupported protocol version", {"supported": [MODERN], "requested": version}, 400)


def dispatch(call: Call) -> dict:
    """The result of a request, or a Refuse, or a NeedInput."""
    server, session = call.server, call.session
    if call.method not in methods(server.revision):
        # The probe for the era, and what checks of errors send on purpose.
        if not (call.method.startswith("vendor/") or (call.method == "server/discover" and not session.ready)):
            server.sin(f"request {call.method}")
        raise Refuse(-32601, f"Method not found: {call.method}", status=404)
    check_meta(call)
    if not server.modern and not session.ready and call.method not in ("initialize", "ping"):
        server.sin(f"{call.method} before notifications/initialized")
    return HANDLERS[call.method](call)


def initialize(call: Call) -> dict:
    if call.params.get("protocolVersion") not in LEGACY:
        call.server.sin(f"initialize with {call.params.get('protocolVersion')}")
    call.session.caps = call.params.get("capabilities") or {}
    return {"protocolVersion": call.server.revision, "capabilities": capabilities(call.server.revision),
            "serverInfo": INFO, "instructions": "Try everything."}


def discover(call: Call) -> dict:
    return cacheable(call, {"supportedVersions": [MODERN], "capabilities": capabilities(MODERN),
                            "instructions": "Try everything."})


def cacheable(call: Call, result: dict) -> dict:
    return {**result, "ttlMs": 1000, "cacheScope": "public"} if call.server.modern else result


def list_tools(call: Call) -> dict:
    tools, cursor = tools_of(call.server.revision), call.params.get("cursor")
    if cursor not in (None, "rest"):
        raise Refuse(-32602, "Unknown cursor")
    tools += [{"name": name, "inputSchema": {"type": "object"}} for name in call.grown]
    page = {"tools": tools[3:]} if cursor else {"tools": tools[:3], "nextCursor": "rest"}
    return cacheable(call, page)


def call_tool(call: Call) -> dict:
    name = call.params.get("name")
    if name in call.grown:
        return text(f"I am {name}")
    if name not in {t["name"] for t in tools_of(call.server.revision)}:
        raise Refuse(-32602, f"Unknown tool: {name}")
    if "task" in call.params:
        if call.server.revision != "2025-11-25":
            call.server.sin("params.task in a revision without it")
        else:
            return begin_task(call, {"ttl": 60000, "pollInterval": 20}, nested=True)
    if name == "slow" and call.server.modern and TASKS in (call.caps.get("extensions") or {}):
        return begin_task(call, {"ttlMs": 60000, "pollIntervalMs": 20}, nested=False)
    return TOOLS[name](call)


def begin_task(call: Call, times: dict, nested: bool) -> dict:
    """Tasks finish when they are first asked about: `working`, then `completed`."""
    server = call.server
    with server.lock:
        own = f"task-{len(server.tasks) + 1}"
        stamp = "2026-01-01T00:00:00Z"
        task = {"taskId": own, "status": "working", "createdAt": stamp, "lastUpdatedAt": stamp, **times}
        server.tasks[own] = {"task": task, "result": text("slow result")}
    return {"task": dict(task)} if nested else {"resultType": "task", **task}


def known_task(call: Call) -> dict:
    if (entry := call.server.tasks.get(call.params.get("taskId"))) is None:
        raise Refuse(-32602, "Unknown task")
    return entry


def get_task(call: Call) -> dict:
    entry = known_task(call)
    if entry["task"]["status"] == "working":
        entry["task"]["status"] = "completed"
    return {**entry["task"], **({"result": entry["result"]} if call.server.modern else {})}


def task_result(call: Call) -> dict:
    entry = known_task(call)
    entry["task"]["status"] = "completed"
    related = {P + "related-task": {"taskId": entry["task"]["taskId"]}}
    return {**entry["result"], "_meta": related}


def cancel_task(call: Call) -> dict:
    entry = known_task(call)
    entry["task"]["status"] = "cancelled"
    return {} if call.server.modern else dict(entry["task"])


def set_level(call: Call) -> dict:
    if call.params.get("level") not in LEVELS:
        raise Refuse(-32602, "Unknown level")
    call.session.level = call.params["level"]
    return {}


def subscribe(call: Call) -> dict:
    call.session.subscribed.add(call.params["uri"])
    return {}


def unsubscribe(call: Call) -> dict:
    call.session.subscribed.discard(call.params["uri"])
    return {}


TEMPLATES = [{"uriTemplate": "test://item/{id}", "name": "item"}]
PROMPTS = [{"name": "greet", "arguments": [{"name": "name", "required": True}]}]
HANDLERS = {
    "initialize": initialize,
    "server/discover": discover,
    "ping": lambda call: {},
    "tools/list": list_tools,
    "tools/call": call_tool,
    "resources/list": lambda call: cacheable(call, {"resources": resources()}),
    "resources/templates/list": lambda call: cacheable(call, {"resourceTemplates": TEMPLATES}),
    "resources/read": lambda call: cacheable(call, read(call, call.params["uri"])),
    "resources/subscribe": subscribe,
    "resources/unsubscribe": unsubscribe,
    "prompts/list": lambda call: cacheable(call, {"prompts": PROMPTS}),
    "prompts/get": prompt,
    "completion/complete": complete,
    "logging/setLevel": set_level,
    "tasks/get": get_task,
    "tasks/update": lambda call: {} if known_task(call) else {},
    "tasks/result": task_result,
    "tasks/cancel": cancel_task,
    "tasks/list": lambda call: {"tasks": [dict(e["task"]) for e in call.server.tasks.values()]},
}


def listen(server: Server, message: dict, send) -> callable:
    """Modern: opens a subscription; returns what ends it."""
    own, wanted = message["id"], message.get("params", {}).get("notifications") or {}
    honoured = {k: v for k, v in wanted.items() if k in ("toolsListChanged", "resourceSubscriptions")}
    if set(wanted) - {"toolsListChanged", "promptsListChanged", "resourcesListChanged", "resourceSubscriptions", "taskIds"}:
        server.sin(f"listen for {sorted(wanted)}")
    note = {"_meta": {P + "subscriptionId": own}, "notifications": honoured}
    send({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": note})
    key = id(note)
    server.listens[key] = (own, honoured, send)
    return lambda: server.listens.pop(key, None)


def new_session(server: Server, send) -> Session:
    session = Session(server, send)
    server.sessions.append(session)
    return session
