#!/usr/bin/env python3
"""What the suite starts in its client mode: the Python SDK, through a mesh of its own or by itself, against the suite's server.

    client.py --logs DIR [--start target/debug/outrigger] [--era legacy|auto] URL

The suite appends URL and names the scenario in its environment. Nothing here knows what a check looks at: the client
lists what the server has and calls all of it, as the scenario's context says or with arguments that fit the schemas. With
`--start` a sidecar reaches the server, so that most checks are about the sidecar as a client.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import httpx2
import mcp
import mcp_types as types
from mcp.client.streamable_http import streamable_http_client

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "acceptance"))

from mesh import Processes, start_mesh  # noqa: E402

SERVICE = "suite"
# The suite gives up after its own time, and would leave a mesh behind.
CLIENT_SECONDS = 40
SAMPLES = {"string": "text", "integer": 2, "number": 2, "boolean": True, "object": {}, "array": [], "null": None}


async def accept(_: Any, params: Any) -> Any:
    """Agrees to every question with the defaults of its form (SEP-1034)."""
    properties = (getattr(params, "requested_schema", None) or {}).get("properties", {})
    content = {name: schema.get("default", SAMPLES[schema["type"]]) for name, schema in properties.items()}
    return types.ElicitResult(action="accept", content=content)


def arguments(schema: dict) -> dict:
    """Arguments that fit a tool's schema."""
    properties = schema.get("properties") or {}
    return {name: SAMPLES[properties[name].get("type", "string")] for name in schema.get("required") or []}


def calls(tools: list[Any], context: dict) -> list[tuple[str, dict]]:
    """The calls to make: those of the context, else one of each tool."""
    if "toolCalls" in context:
        return [(call["name"], call["arguments"]) for call in context["toolCalls"]]
    schemas = {tool.name: tool.input_schema for tool in tools}
    made = {name: arguments(schema) for name, schema in schemas.items()}
    # Gives another tool's schema back as it came.
    if "json_schema_echo" in made:
        made["json_schema_echo"] = {"schema": schemas["json_schema_2020_12_tool"]}
    return list(made.items())


async def attempt(what: str, work: Any) -> Any:
    """Some scenarios refuse on purpose, or answer what the SDK does not take; what matters is what their server saw."""
    try:
        return await work
    except (mcp.MCPError, ValueError) as error:
        print(f"{what}: {error}")
        return None


async def drive(url: str, era: str, context: dict) -> None:
    async with contextlib.AsyncExitStack() as stack:
        http = await stack.enter_async_context(httpx2.AsyncClient(trust_env=False, timeout=httpx2.Timeout(30)))
        reach = streamable_http_client(url, http_client=http)
        client = await stack.enter_async_context(mcp.Client(reach, mode=era, elicitation_callback=accept))
        print(f"negotiated {client.protocol_version}")
        listed = await attempt("tools/list", client.list_tools())
        for name, given in calls(listed.tools if listed else [], context):
            await attempt(f"tools/call {name}", client.call_tool(name, given))
        has = client.server_capabilities
        if has and has.resources is not None and (listed := await attempt("resources/list", client.list_resources())):
            for resource in listed.resources:
                await attempt(f"resources/read {resource.uri}", client.read_resource(str(resource.uri)))
        if has and has.prompts is not None and (listed := await attempt("prompts/list", client.list_prompts())):
            for prompt in listed.prompts:
                await attempt(f"prompts/get {prompt.name}", client.get_prompt(prompt.name))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--start", metavar="OUTRIGGER", help="through a mesh of this binary")
    parser.add_argument("--era", default="", help="of the client; default: the one that the suite asks for")
    parser.add_argument("--logs", type=Path, required=True)
    args = parser.parse_args()

    revision = os.environ["MCP_CONFORMANCE_PROTOCOL_VERSION"]
    scenario = os.environ["MCP_CONFORMANCE_SCENARIO"]
    context = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}"))
    era = args.era or ("auto" if revision >= "2026-07-28" else "legacy")
    with Processes(args.logs / scenario, dict(os.environ)) as processes:
        url = args.url
        if args.start:
            ingress = {"listen": "127.0.0.1:0", "anonymous": True}
            manifest = {"mesh": "conformance", "ingress": ingress, "services": {SERVICE: {"url": url}}}
            url = start_mesh(processes, args.start, manifest, processes.logs / "state", [SERVICE]).service(SERVICE)
        asyncio.run(asyncio.wait_for(drive(url, era, context), CLIENT_SECONDS))
    return 0


if __name__ == "__main__":
    sys.exit(main())
