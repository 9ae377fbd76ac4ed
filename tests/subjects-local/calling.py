"""A stdio MCP server with one tool, `ask`, that calls a tool of another MCP server with the official SDK, which finds its
proxy by the environment.
"""

import json
import sys
import threading

import anyio
from mcp import Client

lock = threading.Lock()


def out(message):
    with lock:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()


async def ask(url, tool, arguments):
    steps = []

    async def progress(done, total, message):
        steps.append(done)

    async with Client(url) as client:
        result = await client.call_tool(tool, arguments, progress_callback=progress)
        return {"text": result.content[0].text, "steps": len(steps)}


def flat(error):
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


def call(request):
    given = request["params"]["arguments"]
    try:
        text = json.dumps(anyio.run(ask, given["url"], given["tool"], given.get("arguments", {})))
    except BaseException as error:
        text = flat(error)
    out({"jsonrpc": "2.0", "id": request["id"], "result": {"content": [{"type": "text", "text": text}]}})


for line in sys.stdin:
    request = json.loads(line)
    method = request.get("method")
    if "id" not in request:
        continue
    if method == "tools/call":
        threading.Thread(target=call, args=(request,), daemon=True).start()
        continue
    if method == "initialize":
        reply = {"result": {"protocolVersion": request["params"]["protocolVersion"], "capabilities": {"tools": {}},
                            "serverInfo": {"name": "calling", "version": "1"}}}
    elif method == "tools/list":
        reply = {"result": {"tools": [{"name": "ask", "inputSchema": {"type": "object"}}]}}
    else:
        reply = {"error": {"code": -32601, "message": "Method not found"}}
    out({"jsonrpc": "2.0", "id": request["id"], **reply})
