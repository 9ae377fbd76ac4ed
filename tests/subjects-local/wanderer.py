"""A stdio MCP server whose tools try what a confined server must not do. Standard library only."""

import json
import os
import socket
import sys

TRIES = {
    "connect": lambda a: socket.create_connection((a["host"], a["port"]), 5).close(),
    "udp": lambda a: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("127.0.0.1", a["port"])),
    "unix": lambda a: socket.socket(socket.AF_UNIX).connect(a["path"]),
    "read": lambda a: open(a["path"]).read(),
    "write": lambda a: open(a["path"], "w").write("x"),
    "scratch": lambda a: open(os.path.join(os.environ["HOME"], "note"), "w").write("x"),
    "where": lambda a: None,
}


def answer(message):
    method = message["method"]
    if method == "initialize":
        return {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "wanderer", "version": "1"}}
    if method == "tools/list":
        return {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in TRIES]}
    name, arguments = message["params"]["name"], message["params"].get("arguments", {})
    try:
        TRIES[name](arguments)
        text = json.dumps({"home": os.environ["HOME"], "temporary": os.environ["TMPDIR"]}) if name == "where" else "done"
    except OSError as e:
        text = f"refused: {e}"
    return {"content": [{"type": "text", "text": text}]}


for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message:
        continue
    reply = {"jsonrpc": "2.0", "id": message["id"]}
    if message["method"] in ("initialize", "tools/list", "tools/call"):
        reply["result"] = answer(message)
    else:
        reply["error"] = {"code": -32601, "message": "no"}
    print(json.dumps(reply), flush=True)
