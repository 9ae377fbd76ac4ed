"""Calls tools by the official SDK: reads JSON lines {"tool", "arguments"} from stdin, answers each with a line {"said"}.

    caller.py --url URL [--token FILE]      a server, or the mesh in front of it
    caller.py -- COMMAND...                 a server over stdio
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path

import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError


async def converse(client: Client) -> None:
    async with client:
        print(json.dumps({"ready": True}), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            asked = json.loads(line)
            try:
                result = await client.call_tool(asked["tool"], asked["arguments"])
                said = result.model_dump_json(by_alias=True)
                if len(result.content) == 1 and result.content[0].type == "text" and not result.is_error:
                    said = result.content[0].text
            except MCPError as error:
                said = f"error: {error}"
            print(json.dumps({"said": said}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url")
    parser.add_argument("--token", type=Path)
    parser.add_argument("command", nargs="*")
    args = parser.parse_args()
    if args.url:
        headers = {"Authorization": f"Bearer {args.token.read_text().strip()}"} if args.token else {}
        http = httpx2.AsyncClient(headers=headers, trust_env=False, timeout=60)
        client = Client(streamable_http_client(args.url, http_client=http))
    else:
        command, *arguments = args.command
        client = Client(StdioServerParameters(command=command, args=arguments, env=dict(os.environ)))
    asyncio.run(converse(client))


if __name__ == "__main__":
    main()
