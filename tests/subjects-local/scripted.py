"""A stdio MCP server that misbehaves on request. Standard library only.

    scripted.py [--era legacy|modern] [--pids FILE] [--banner] [--crlf] [--die-at-probe] [--die-at-start]
                [--ignore-eof] [--never] [--slow-list MS] [--endless-pages] [--notes FILE]

Tools say what they do in their names; see the functions below. Every message that belongs to no call and every
answer to a question is remembered, and the tool `seen` tells them.
"""

import argparse
import json
import os
import random
import signal
import sys
import threading
import time

options = argparse.ArgumentParser()
options.add_argument("--era", default="legacy")
options.add_argument("--pids")
options.add_argument("--banner", action="store_true")
options.add_argument("--crlf", action="store_true")
options.add_argument("--die-at-probe", action="store_true")
options.add_argument("--die-at-start", action="store_true")
options.add_argument("--ignore-eof", action="store_true")
options.add_argument("--never", action="store_true")
options.add_argument("--slow-list", type=int, default=0)
options.add_argument("--slow-start", type=int, default=0)
options.add_argument("--endless-pages", action="store_true")
options.add_argument("--grandchild", action="store_true")
options.add_argument("--ping-first", action="store_true")
options = options.parse_args()

MODERN = "2026-07-28"
P = "io.modelcontextprotocol/"
INFO = {"name": "scripted", "version": "1"}
out_lock = threading.Lock()
state = {"seen": [], "cancelled": [], "subscribed": [], "count": 0, "extra": 0, "reading": True, "listens": [],
         "lists": 0, "lists_now": 0, "lists_at_once": 0}
waiting = {}
next_id = [100]


def out_bytes(data):
    with out_lock:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def out_text(text):
    out_bytes(text.encode() + (b"\r\n" if options.crlf else b"\n"))


def out(message):
    out_text(json.dumps(message, ensure_ascii=False))


def notify(method, params=None):
    out({"jsonrpc": "2.0", "method": method, **({"params": params} if params is not None else {})})


def question(method, params):
    """A request of ours, whose answer `answer` waits for."""
    with out_lock:
        next_id[0] += 1
        own = f"ask-{next_id[0]}"
    waiting[own] = [threading.Event(), None]
    return {"jsonrpc": "2.0", "id": own, "method": method, "params": params}


def answer(asked, patience=60):
    if not waiting[asked["id"]][0].wait(patience):
        return {"error": "nobody answered"}
    return waiting.pop(asked["id"])[1]


def ask(method, params, patience=60):
    asked = question(method, params)
    out(asked)
    return answer(asked, patience)


def elicitation(text):
    return {"message": text, "requestedSchema": {"type": "object", "properties": {"a": {"type": "string"}}}}


SAMPLE = {"messages": [{"role": "user", "content": {"type": "text", "text": "hi"}}], "maxTokens": 5}


class Refuse(Exception):
    def __init__(self, code, message, data=None):
        super().__init__(message)
        self.error = {"code": code, "message": message, **({"data": data} if data else {})}


# --- tools: (arguments, call) -> a text, a result, or a Refuse. `call` has id, meta, line (the raw request).
def tool_echo(a, call):
    return json.dumps(a, ensure_ascii=False)


def tool_line(a, call):
    """The request as it came over the pipe."""
    return call["line"]


def tool_raw(a, call):
    """Answers with exactly these bytes as the result."""
    out_text('{"jsonrpc":"2.0","id":%s,"result":%s}' % (json.dumps(call["id"]), a["result"]))


def tool_sleep(a, call):
    end = time.monotonic() + a["ms"] / 1000
    while time.monotonic() < end and call["id"] not in state["cancelled"]:
        time.sleep(0.01)
    return "cancelled" if call["id"] in state["cancelled"] else "slept"


def tool_progress(a, call):
    """Progress at once, then nothing until `go` is called."""
    progress(call, 1)
    wait_for("go")
    progress(call, 2)
    return "done"


def tool_go(a, call):
    state["go"] = True
    return "gone"


def wait_for(key):
    end = time.monotonic() + 60
    while time.monotonic() < end and not state.get(key):
        time.sleep(0.01)


def progress(call, n):
    token = call["meta"].get("progressToken")
    if token is not None:
        notify("notifications/progress", {"progressToken": token, "progress": n, "message": "häß"})


def tool_flood(a, call):
    for n in range(a["n"]):
        progress(call, n)
    state["flooded"] = a["n"]
    state["floods"] = state.get("floods", 0) + 1
    return "flooded"


def tool_logs(a, call):
    for level in ["debug", "info", "warning", "error"]:
        notify("notifications/message", {"level": level, "data": level})
    return "logged"


def tool_late(a, call):
    """Progress that falls, and some more when the answer is out already."""
    progress(call, 5)
    progress(call, 3)
    out({"jsonrpc": "2.0", "id": call["id"], "result": {"content": [{"type": "text", "text": "late"}]}})
    progress(call, 9)


def tool_never(a, call):
    state["never"] = call["id"]
    return ...


def tool_die(a, call):
    os._exit(3)


def tool_huge(a, call):
    return "x" * a["bytes"]


def tool_garbage(a, call):
    out_bytes(b"Traceback (most recent call last):\n\n   \n{\"half\": \n\xff\xfe\n[1,2]\n{}\n")
    return "clean"


def tool_split(a, call):
    """The reply in two writes that cut a UTF-8 sequence in half."""
    text = '{"jsonrpc":"2.0","id":%s,"result":{"content":[{"type":"text","text":"grün €"}]}}' % json.dumps(call["id"])
    data = text.encode() + b"\n"
    cut = data.index("€".encode()) + 1
    out_bytes(data[:cut])
    time.sleep(0.05)
    out_bytes(data[cut:])


def tool_deaf(a, call):
    state["reading"] = False
    return "deaf"


def tool_pid(a, call):
    return str(os.getpid())


def tool_work(a, call):
    """Takes a moment, tells of it, asks, and answers; everything it says holds the caller's own nonce."""
    token = call["meta"].get("progressToken")
    for n in range(a["steps"]):
        time.sleep(random.random() / 200)
        if token is not None:
            notify("notifications/progress", {"progressToken": token, "progress": n, "message": a["nonce"]})
    got = [ask("elicitation/create", elicitation(a["nonce"]), 5) for _ in range(a["asks"])]
    if a["die"]:
        os._exit(6)
    result = {"content": [{"type": "text", "text": json.dumps({"nonce": a["nonce"], "got": got})}]}
    if a["again"]:
        # Nobody waits for these: an id that was never used, and the second answer to this one.
        out({"jsonrpc": "2.0", "id": call["id"] + 100_000, "result": result})
        out({"jsonrpc": "2.0", "id": call["id"], "result": result})
    return result


def tool_count(a, call):
    state["count"] += 1
    return str(state["count"])


def tool_elicit(a, call):
    return json.dumps(ask("elicitation/create", elicitation("your name?")))


def tool_sample(a, call):
    return json.dumps(ask("sampling/createMessage", SAMPLE))


def tool_roots(a, call):
    return json.dumps(ask("roots/list", {}))


def tool_both(a, call):
    got = {}
    one = threading.Thread(target=lambda: got.update(e=ask("elicitation/create", elicitation("both?"))))
    one.start()
    got["r"] = ask("roots/list", {})
    one.join()
    return json.dumps(got, sort_keys=True)


def tool_twice(a, call):
    first = ask("elicitation/create", elicitation("first?"))
    return json.dumps([first, ask("elicitation/create", elicitation("second?"))])


def tool_url(a, call):
    if state.get("visited"):
        return "welcome"
    state["visited"] = True
    wanted = [{"mode": "url", "elicitationId": "e1", "url": "https://example.com/login", "message": "log in"}]
    raise Refuse(-32042, "URL elicitation required", {"elicitations": wanted})


def tool_outside(a, call):
    """Asks for roots once no call is in flight; the tool `seen` tells what came back."""
    def later():
        time.sleep(0.1)
        state["seen"].append({"outside": ask("roots/list", {}, 5)})
    threading.Thread(target=later, daemon=True).start()
    return "later"


def tool_astray(a, call):
    """Asks for roots and goes on in the same breath; the tool `seen` tells what came back."""
    asked = question("roots/list", {})
    reply = {"jsonrpc": "2.0", "id": call["id"], "result": {"content": [{"type": "text", "text": "gone on"}]}}
    out_bytes("".join(json.dumps(message) + "\n" for message in (asked, reply)).encode())
    threading.Thread(target=lambda: state["seen"].append({"astray": answer(asked, 5)}), daemon=True).start()


def tool_change(a, call):
    began = time.monotonic()
    for n in range(a.get("times", 1)):
        state["extra"] += 1
        notify("notifications/tools/list_changed")
        if "per_second" in a:
            time.sleep(max(0, began + (n + 1) / a["per_second"] - time.monotonic()))
    return "changed"


def tool_storm(a, call):
    for _ in range(a["times"]):
        notify("notifications/tools/list_changed")
    return "stormed"


def tool_update(a, call):
    if options.era == "legacy":
        notify("notifications/resources/updated", {"uri": a["uri"]})
    for own, wanted in state["listens"]:
        if a["uri"] in wanted.get("resourceSubscriptions", []):
            notify("notifications/resources/updated", {"uri": a["uri"], "_meta": {P + "subscriptionId": own}})
    return "updated"


def tool_say(a, call):
    """A log message outside any call."""
    threading.Timer(0.1, lambda: notify("notifications/message", {"level": "info", "data": a["text"]})).start()
    return "soon"


def tool_seen(a, call):
    return json.dumps(state)


def tool_fail(a, call):
    return {"content": [{"type": "text", "text": "no"}], "isError": True}


TOOLS = {name[5:]: run for name, run in list(globals().items()) if name.startswith("tool_")}
RESOURCES = [{"uri": "test://a", "name": "a"}, {"uri": "test://hidden", "name": "hidden"}]


def tool_list(cursor):
    state["lists"] += cursor is None
    state["lists_now"] += 1
    state["lists_at_once"] = max(state["lists_at_once"], state["lists_now"])
    if options.slow_list:
        time.sleep(options.slow_list / 1000)
    state["lists_now"] -= 1
    tools = [{"name": n, "inputSchema": {"type": "object"}, "x-unknown": 1.0} for n in TOOLS]
    tools += [{"name": f"extra{n}", "inputSchema": {"type": "object"}} for n in range(state["extra"])]
    if options.endless_pages:
        return {"tools": tools if cursor is None else [], "nextCursor": "again"}
    # Two pages, so that following cursors is part of every test.
    return {"tools": tools[2:]} if cursor == "2" else {"tools": tools[:2], "nextCursor": "2"}


def capabilities():
    return {"tools": {"listChanged": True}, "resources": {"subscribe": True}, "prompts": {}, "logging": {}, "completions": {}}


def handle(method, params, call):
    if method == "server/discover" and options.era == "modern":
        return {"supportedVersions": [MODERN], "capabilities": capabilities(), "instructions": "Be kind."}
    if method == "initialize" and options.era == "legacy":
        if options.ping_first and ask("ping", {}, 3) != {}:
            raise Refuse(-32603, "nobody answered my ping")
        state["client"] = params
        return {"protocolVersion": params["protocolVersion"], "capabilities": capabilities(), "serverInfo": INFO,
                "instructions": "Be kind."}
    if method == "tools/list":
        return tool_list(params.get("cursor"))
    if method == "prompts/list":
        return {"prompts": [{"name": "p"}]}
    if method == "prompts/get":
        return {"messages": []}
    if method == "resources/list":
        return {"resources": RESOURCES}
    if method == "resources/read":
        if any(r["uri"] == params["uri"] for r in RESOURCES):
            return {"contents": [{"uri": params["uri"], "text": "here"}]}
        raise Refuse(-32602 if options.era == "modern" else -32002, "no such resource", {"uri": params["uri"]})
    if method == "completion/complete":
        return {"completion": {"values": ["python"]}}
    if method in ("resources/subscribe", "resources/unsubscribe", "ping", "logging/setLevel"):
        state["subscribed"].append([method, params.get("uri")])
        return {}
    if method == "tools/call" and params["name"] in TOOLS:
        result = TOOLS[params["name"]](params.get("arguments", {}), call)
        return {"content": [{"type": "text", "text": result}]} if isinstance(result, str) else result
    if method == "tools/call":
        raise Refuse(-32602, f"Unknown tool: {params['name']}")
    raise Refuse(-32601, f"Method not found: {method}")


def serve(message, line):
    params = message.get("params") or {}
    meta = params.get("_meta") or {}
    if message["method"] == "subscriptions/listen" and options.era == "modern":
        note = {"_meta": {P + "subscriptionId": message["id"]}, "notifications": params["notifications"]}
        state["listens"].append([message["id"], params["notifications"]])
        return notify("notifications/subscriptions/acknowledged", note)
    try:
        result = handle(message["method"], params, {"id": message["id"], "meta": meta, "line": line})
    except Refuse as refuse:
        return out({"jsonrpc": "2.0", "id": message["id"], "error": refuse.error})
    if result is None or result is ...:
        return
    if options.era == "modern" and "resultType" not in result:
        result = {"resultType": "complete", **result, "_meta": {P + "serverInfo": INFO}}
    out({"jsonrpc": "2.0", "id": message["id"], "result": result})


def main():
    # Whatever a test does, this process ends.
    bomb = threading.Timer(150, lambda: os._exit(9))
    bomb.daemon = True
    bomb.start()
    if options.pids:
        with open(options.pids, "a") as file:
            file.write(f"{os.getpid()}\n")
    if options.grandchild and os.fork() == 0:
        # A helper process that outlives a parent which forgets it.
        sys.stdin.close()
        os.close(1)
        with open(options.pids, "a") as file:
            file.write(f"{os.getpid()}\n")
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(150)
        os._exit(0)
    if options.die_at_start:
        os._exit(4)
    if options.slow_start:
        time.sleep(options.slow_start / 1000)
    if options.banner:
        out_text("Welcome to scripted 1.0!")
    if options.ignore_eof:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for raw in sys.stdin.buffer:
        while not state["reading"]:
            time.sleep(1)
        line = raw.decode().rstrip("\n")
        message = json.loads(line)
        if options.never:
            continue
        if options.die_at_probe and message.get("method") == "server/discover":
            os._exit(5)
        if "method" not in message:
            slot = waiting.get(message["id"])
            if slot:
                slot[1] = message.get("result", {"error": message.get("error")})
                slot[0].set()
        elif "id" not in message:
            if message["method"] == "notifications/cancelled":
                state["cancelled"].append(message["params"]["requestId"])
            state["seen"].append(message["method"])
        else:
            threading.Thread(target=serve, args=(message, line), daemon=True).start()
    while options.ignore_eof:
        time.sleep(1)
    os._exit(0)


main()
