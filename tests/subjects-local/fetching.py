"""A stdio MCP server with two tools that fetch a URL, `weather` and `news`, by the proxy that the environment names,
or past it with `direct`; with `bare` it shows the proxy no credentials; with `traced` the request carries the call's trace.
Standard library only. `seconds` is how long it waits
first, so that another call can be at work beside it.
"""

import json
import os
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

lock = threading.Lock()


def out(message):
    with lock:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


def fetch(url, direct, bare, headers):
    handlers = [urllib.request.ProxyHandler({})] if direct else []
    if bare:
        proxy = urllib.parse.urlsplit(os.environ["HTTP_PROXY"])
        handlers = [urllib.request.ProxyHandler({"http": f"http://{proxy.hostname}:{proxy.port}"})]
    try:
        with urllib.request.build_opener(*handlers).open(urllib.request.Request(url, headers=headers), timeout=10) as reply:
            return f"{reply.status} {reply.read().decode()}"
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.read().decode()}"
    except OSError as error:
        return f"no connection: {error}"


def call(request):
    arguments = request["params"].get("arguments", {})
    time.sleep(arguments.get("seconds", 0))
    trace = request["params"].get("_meta", {}).get("traceparent")
    headers = {"traceparent": trace} if arguments.get("traced") else {}
    text = "rested"
    if "url" in arguments:
        text = fetch(arguments["url"], arguments.get("direct", False), arguments.get("bare", False), headers)
    out({"jsonrpc": "2.0", "id": request["id"], "result": {"content": [{"type": "text", "text": text}]}})


SCHEMA = {"type": "object", "properties": {"url": {"type": "string"}, "seconds": {"type": "number"},
                                           "direct": {"type": "boolean"}, "bare": {"type": "boolean"}, "traced": {"type": "boolean"}}}
for line in sys.stdin:
    request = json.loads(line)
    method = request.get("method")
    if "id" not in request:
        continue
    if method == "initialize":
        result = {"protocolVersion": request["params"]["protocolVersion"], "capabilities": {"tools": {}},
                  "serverInfo": {"name": "fetching", "version": "1"}}
    elif method == "tools/list":
        result = {"tools": [{"name": name, "inputSchema": SCHEMA} for name in ("weather", "news")]}
    elif method == "tools/call":
        threading.Thread(target=call, args=(request,), daemon=True).start()
        continue
    else:
        out({"jsonrpc": "2.0", "id": request["id"], "error": {"code": -32601, "message": "Method not found"}})
        continue
    out({"jsonrpc": "2.0", "id": request["id"], "result": result})
