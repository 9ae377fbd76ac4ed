#!/usr/bin/env python3
"""A strict MCP server for each revision and transport, for what no published server offers. Standard library only.

    reference.py stdio REVISION --sins FILE
    reference.py http PORT --sins FILE       every revision on 127.0.0.1: /REVISION/mcp, and /REVISION/sse (HTTP+SSE)

What a peer does against the revision goes to FILE, a line each.
"""

import argparse

from http_transport import serve_http
from stdio_transport import serve_stdio

options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
options.add_argument("transport", choices=["stdio", "http"])
options.add_argument("what", help="a revision, or a port")
options.add_argument("--sins", required=True)
given = options.parse_args()
if given.transport == "stdio":
    serve_stdio(given.what, given.sins)
else:
    serve_http(int(given.what), given.sins)
