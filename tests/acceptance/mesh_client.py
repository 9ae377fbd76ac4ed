#!/usr/bin/env python3
"""MCP acceptance client (Python, `mcp` 2.x SDK).

Connects to an MCP server (direct, or through the mesh), checks what comes back
and prints "N passed, M failed" as its last line; exit status 1 if M > 0.

  MESH_INGRESS_URL   endpoint (http(s)://host:port/path; HTTP+SSE where the path ends in /sse), or give argv: -- CMD ARGS... for stdio
  MESH_TOKEN         bearer token                 MESH_HEADERS   JSON object of further headers
  MESH_CA            PEM bundle that signs the ingress certificate
  MESH_CLIENT_CERT / MESH_CLIENT_KEY   PEM client certificate and key
  MESH_MODE          auto (default) | legacy | 2026-07-28
  MESH_PROFILE       everything (default) | generic   (generic: only list + ping)
  MESH_CALLS         concurrent calls (default 50)    MESH_SESSIONS  parallel sessions (default 5)
  MESH_TIMEOUT       seconds per request (default 30)
  MESH_TOOL_PREFIX   prefix the gateway puts before tool names (default none)
  MESH_URI_PREFIX    prefix of resource URIs that several services claim (default none)
  MESH_EXPECT_VERSION  negotiated revision that must come out (default: any)
  MESH_EXPECT_SERVER   substring of serverInfo.name (default: none)
  MESH_CHILD_ENV     stdio: comma separated env names handed to the child (default PATH,HOME)
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import time
import traceback
import warnings

import anyio
import httpx2
import mcp_types as t
from mcp import Client, StdioServerParameters
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

warnings.filterwarnings("ignore", message=".*removed as of.*")
E = os.environ.get
TIMEOUT = float(E("MESH_TIMEOUT", "30"))
CALLS = int(E("MESH_CALLS", "50"))
SESSIONS = int(E("MESH_SESSIONS", "5"))
PREFIX = E("MESH_TOOL_PREFIX", "")
DEMO = E("MESH_URI_PREFIX", "") + "demo:"
MODE = E("MESH_MODE", "auto")
PROFILE = E("MESH_PROFILE", "everything")
passed = failed = 0
seen: dict[str, int] = {}


def check(name: str, ok: bool, note: str = "") -> bool:
    global passed, failed
    passed, failed = passed + bool(ok), failed + (not ok)
    print(f"{'ok  ' if ok else 'FAIL'} {name}" + (f"  -- {note}" if note else ""), flush=True)
    return bool(ok)


def flat(e: BaseException) -> str:
    while isinstance(e, BaseExceptionGroup) and e.exceptions:
        e = e.exceptions[0]
    return f"{type(e).__name__}: {e}"[:300]


async def step(name: str, fn, *a):
    """Run one check; a raised exception is a failure, never the end of the run."""
    try:
        with anyio.fail_after(TIMEOUT + 30):
            r = await fn(*a)
        check(name, r is True or (isinstance(r, tuple) and r[0]), r[1] if isinstance(r, tuple) else "")
    except Exception as e:  # noqa: BLE001
        check(name, False, flat(e))
        if E("MESH_TRACE"):
            traceback.print_exc()


def http_client() -> httpx2.AsyncClient:
    headers = json.loads(E("MESH_HEADERS", "{}"))
    if E("MESH_TOKEN"):
        headers["Authorization"] = "Bearer " + E("MESH_TOKEN")
    ctx = ssl.create_default_context(cafile=E("MESH_CA") or None)
    if E("MESH_CLIENT_CERT"):
        ctx.load_cert_chain(E("MESH_CLIENT_CERT"), E("MESH_CLIENT_KEY") or None)
    # trust_env off: the client's own traffic must not go through an HTTP_PROXY of the shell
    return httpx2.AsyncClient(
        headers=headers,
        verify=ctx,
        trust_env=False,
        timeout=httpx2.Timeout(TIMEOUT, read=300),
        limits=httpx2.Limits(max_connections=None),
    )


async def on_elicit(ctx, params):
    seen["elicit"] = seen.get("elicit", 0) + 1
    if getattr(params, "mode", "form") == "url":
        return t.ElicitResult(action="accept")
    content = {}
    for k, s in (params.requested_schema or {}).get("properties", {}).items():
        if "default" in s:
            content[k] = s["default"]
        elif "enum" in s:
            content[k] = s["enum"][0]
        elif "oneOf" in s:
            content[k] = s["oneOf"][0]["const"]
        elif s.get("type") == "string":
            content[k] = {
                "email": "a@example.com",
                "uri": "https://example.com/",
                "date": "2026-01-02",
                "date-time": "2026-01-02T03:04:05Z",
            }.get(s.get("format", ""), "mesh-check")
        elif s.get("type") in ("number", "integer"):
            content[k] = s.get("minimum", 1)
        elif s.get("type") == "boolean":
            content[k] = True
        elif s.get("type") == "array":
            it = s.get("items", {})
            content[k] = [(it.get("enum") or [o["const"] for o in it.get("anyOf", [])] or ["x"])[0]]
    return t.ElicitResult(action="accept", content=content)


async def on_sample(ctx, params):
    seen["sample"] = seen.get("sample", 0) + 1
    return t.CreateMessageResult(
        role="assistant", model="mesh-check", content=t.TextContent(type="text", text="SAMPLED-BY-MESH-CHECK")
    )


async def on_roots(ctx):
    seen["roots"] = seen.get("roots", 0) + 1
    return t.ListRootsResult(roots=[t.Root(uri="file:///mesh-root", name="mesh-root")])


async def on_log(params):
    seen["log"] = seen.get("log", 0) + 1


async def on_msg(m):
    n = type(getattr(m, "root", m)).__name__
    seen["msg:" + n] = seen.get("msg:" + n, 0) + 1


def make(stdio):
    kw = dict(
        mode=MODE,
        read_timeout_seconds=TIMEOUT,
        elicitation_callback=on_elicit,
        sampling_callback=on_sample,
        list_roots_callback=on_roots,
        logging_callback=on_log,
        message_handler=on_msg,
    )
    if stdio:
        keep = [x for x in E("MESH_CHILD_ENV", "PATH,HOME").split(",") if x]
        return None, Client(
            StdioServerParameters(
                command=stdio[0], args=stdio[1:], env={k: os.environ[k] for k in keep if k in os.environ}
            ),
            **kw,
        )
    if E("MESH_INGRESS_URL").endswith("/sse"):
        headers = json.loads(E("MESH_HEADERS", "{}"))
        if E("MESH_TOKEN"):
            headers["Authorization"] = "Bearer " + E("MESH_TOKEN")
        return None, Client(sse_client(E("MESH_INGRESS_URL"), headers=headers), **kw)
    h = http_client()
    return h, Client(streamable_http_client(E("MESH_INGRESS_URL"), http_client=h), **kw)


class session:
    def __init__(self, stdio):
        self.stdio = stdio

    async def __aenter__(self):
        self.h, self.c = make(self.stdio)
        if self.h:
            await self.h.__aenter__()
        return await self.c.__aenter__()

    async def __aexit__(self, *a):
        try:
            await self.c.__aexit__(*a)
        except* anyio.BrokenResourceError:
            # The SDK's client over HTTP+SSE fails while it closes when an event comes just then, at any server: its reader passes the
            # event on to a session that is gone. What the session was asked is checked by then.
            if a[0] is not None or self.h:
                raise
        finally:
            if self.h:
                await self.h.__aexit__(None, None, None)


def text(r) -> str:
    return "".join(getattr(c, "text", "") or "" for c in r.content)


async def paged(fn, attr):
    out, cur, n = [], None, 0
    while n < 100:
        r = await fn(cursor=cur)
        out += getattr(r, attr)
        cur, n = r.next_cursor, n + 1
        if not cur:
            break
    return out


async def run(stdio):
    async with session(stdio) as c:
        v = c.protocol_version
        name = c.server_info.name if c.server_info else "?"
        want = E("MESH_EXPECT_VERSION", "")
        check("connect and negotiate", not want or v == want, f"revision {v}, server {name}")
        if E("MESH_EXPECT_SERVER"):
            check("server identity", E("MESH_EXPECT_SERVER") in name, name)
        caps = c.server_capabilities
        lists: dict[str, list] = {}
        for kind, fn in (("tools", c.list_tools), ("resources", c.list_resources), ("prompts", c.list_prompts)):
            if getattr(caps, kind) is None and v < "2026":
                print(f"skip {kind}/list (not advertised)")
                lists[kind] = []
                continue

            async def one(kind=kind, fn=fn):
                lists[kind] = await paged(fn, kind)
                return True, f"{len(lists[kind])} {kind}"

            await step(f"{kind}/list", one)
        if v < "2026":

            async def ping():
                await c.send_ping()
                return True

            await step("ping", ping)
        if PROFILE != "everything":
            return

        names = {x.name for x in lists.get("tools", [])}
        T = lambda n: PREFIX + n
        check(
            "expected tools present",
            {T("echo"), T("get-sum"), T("trigger-long-running-operation")} <= names,
            ",".join(sorted(names))[:400],
        )
        check("tool schemas intact", all(x.input_schema.get("type") == "object" for x in lists.get("tools", [])))

        async def echo():
            msg = 'h\u00e9llo \U0001f980 "quotes" \\ \u2028 end'
            return text(await c.call_tool(T("echo"), {"message": msg})) == "Echo: " + msg, "unicode round trip"

        await step("tools/call echo", echo)

        async def big():
            msg = "x" * (512 * 1024)
            return text(await c.call_tool(T("echo"), {"message": msg})) == "Echo: " + msg, "512 KiB both ways"

        await step("large message", big)

        async def summ():
            return "42" in text(await c.call_tool(T("get-sum"), {"a": 19, "b": 23}))

        await step("tools/call get-sum", summ)

        async def structured():
            r = await c.call_tool(T("get-structured-content"), {"location": "New York"})
            return isinstance(r.structured_content, dict) and "temperature" in r.structured_content, json.dumps(
                r.structured_content
            )[:120]

        await step("structuredContent", structured)

        async def image():
            r = await c.call_tool(T("get-tiny-image"), {})
            im = [x for x in r.content if x.type == "image"]
            return bool(im) and im[0].data.startswith("iVBOR"), f"{len(im[0].data) if im else 0} base64 chars"

        await step("image content", image)

        async def bad_args():
            try:
                r = await c.call_tool(T("get-sum"), {"a": "not a number"})
                return bool(r.is_error), "isError result"
            except Exception as e:  # noqa: BLE001
                return getattr(e, "code", None) == -32602 or "-32602" in str(e) or "nvalid" in str(e), flat(e)[:120]

        await step("invalid arguments are an error", bad_args)

        async def unknown():
            try:
                r = await c.call_tool(T("no-such-tool-xyz"), {})
                return bool(r.is_error), text(r)[:120]
            except Exception as e:  # noqa: BLE001
                return "imed out" not in str(e), flat(e)[:120]

        await step("unknown tool is an error, not a hang", unknown)

        async def conc():
            got, lat = {}, []

            async def one(i):
                t0 = time.monotonic()
                got[i] = text(await c.call_tool(T("echo"), {"message": f"m{i}"}))
                lat.append(time.monotonic() - t0)

            async with anyio.create_task_group() as tg:
                for i in range(CALLS):
                    tg.start_soon(one, i)
            bad = [i for i in range(CALLS) if got.get(i) != f"Echo: m{i}"]
            lat.sort()
            return (
                not bad,
                f"{CALLS} calls in one session, p50 {lat[len(lat) // 2] * 1e3:.0f} ms, max {lat[-1] * 1e3:.0f} ms",
            )

        await step("concurrent calls, answers not mixed", conc)

        async def progress():
            ev = []

            async def cb(p, total, message):
                ev.append(p)

            r = await c.call_tool(
                T("trigger-long-running-operation"), {"duration": 2, "steps": 4}, progress_callback=cb
            )
            return len(ev) >= 3 and ev == sorted(ev) and not r.is_error, f"progress {ev}"

        await step("progress notifications", progress)

        async def streaming():
            at, t0 = [], time.monotonic()

            async def cb(p, total, message):
                at.append(round(time.monotonic() - t0, 2))

            await c.call_tool(T("trigger-long-running-operation"), {"duration": 3, "steps": 3}, progress_callback=cb)
            return bool(at) and at[0] < 2.2 and at[-1] - at[0] > 0.8, f"arrived at {at} s (not buffered until the end)"

        await step("progress arrives while running", streaming)

        async def cancel():
            t0 = time.monotonic()
            with anyio.move_on_after(1) as sc:
                await c.call_tool(T("trigger-long-running-operation"), {"duration": 20, "steps": 20})
            ok = sc.cancelled_caught and time.monotonic() - t0 < 5
            return ok and "Echo: after" in text(
                await c.call_tool(T("echo"), {"message": "after"})
            ), "session usable after a cancelled call"

        await step("cancel", cancel)

        if T("trigger-elicitation-request") in names:

            async def elicit():
                n = seen.get("elicit", 0)
                r = await c.call_tool(T("trigger-elicitation-request"), {})
                return seen.get("elicit", 0) > n and not r.is_error, text(r)[:100].replace("\n", " ")

            await step("elicitation round trip", elicit)
        if T("trigger-sampling-request") in names:

            async def sample():
                r = await c.call_tool(T("trigger-sampling-request"), {"prompt": "hi", "maxTokens": 10})
                return "SAMPLED-BY-MESH-CHECK" in text(r), text(r)[:100].replace("\n", " ")

            await step("sampling round trip", sample)
        if T("get-roots-list") in names:

            async def roots():
                r = await c.call_tool(T("get-roots-list"), {})
                return "mesh-root" in text(r), text(r)[:100].replace("\n", " ")

            await step("roots round trip", roots)

        async def res():
            r = await c.read_resource(DEMO + "//resource/dynamic/text/7")
            uri = str(r.contents[0].uri)
            return "7" in (getattr(r.contents[0], "text", "") or "") and uri.endswith(
                "demo://resource/dynamic/text/7"
            ), uri

        await step("resources/read text", res)

        async def blob():
            r = await c.read_resource(DEMO + "//resource/dynamic/blob/8")
            uri = str(r.contents[0].uri)
            return bool(getattr(r.contents[0], "blob", "")) and uri.endswith("demo://resource/dynamic/blob/8"), uri

        await step("resources/read blob", blob)

        async def tmpl():
            r = await c.list_resource_templates()
            return len(r.resource_templates) >= 1, f"{len(r.resource_templates)} templates"

        await step("resources/templates/list", tmpl)

        async def miss():
            try:
                await c.read_resource(DEMO + "//no/such/thing")
                return False, "no error"
            except Exception as e:  # noqa: BLE001
                return "imed out" not in str(e), flat(e)[:100]

        await step("unknown resource is an error", miss)

        if v < "2026" and T("toggle-subscriber-updates") in names:

            async def sub():
                k = "msg:ResourceUpdatedNotification"
                n = seen.get(k, 0)
                await c.subscribe_resource(DEMO + "//resource/dynamic/text/1")
                await c.call_tool(T("toggle-subscriber-updates"), {})
                t0 = time.monotonic()
                while seen.get(k, 0) == n and time.monotonic() - t0 < 12:
                    await anyio.sleep(0.2)
                got = seen.get(k, 0) > n
                await c.call_tool(T("toggle-subscriber-updates"), {})
                await c.unsubscribe_resource(DEMO + "//resource/dynamic/text/1")
                return got, f"notification after {time.monotonic() - t0:.1f} s"

            await step("subscription: server-initiated notification", sub)
        if T("toggle-simulated-logging") in names and v < "2026":

            async def log():
                n = seen.get("log", 0)
                await c.call_tool(T("toggle-simulated-logging"), {})
                t0 = time.monotonic()
                while seen.get("log", 0) == n and time.monotonic() - t0 < 12:
                    await anyio.sleep(0.2)
                await c.call_tool(T("toggle-simulated-logging"), {})
                return seen.get("log", 0) > n, f"log message after {time.monotonic() - t0:.1f} s"

            await step("logging notifications", log)

        async def prompt():
            r = await c.get_prompt(PREFIX + "args-prompt", {"city": "Oslo"})
            return "Oslo" in json.dumps(r.model_dump(mode="json"))

        await step("prompts/get with arguments", prompt)

        async def compl():
            r = await c.complete(
                t.PromptReference(type="ref/prompt", name=PREFIX + "completable-prompt"),
                {"name": "department", "value": "E"},
            )
            return len(r.completion.values) >= 1, ",".join(r.completion.values)

        await step("completion/complete", compl)

    if not stdio:

        async def many():
            res = []

            async def one(i):
                async with session(None) as s:
                    for j in range(5):
                        res.append(
                            text(await s.call_tool(PREFIX + "echo", {"message": f"s{i}-{j}"})) == f"Echo: s{i}-{j}"
                        )

            async with anyio.create_task_group() as tg:
                for i in range(SESSIONS):
                    tg.start_soon(one, i)
            return len(res) == SESSIONS * 5 and all(res), f"{SESSIONS} sessions x 5 calls"

        await step("parallel sessions, answers not mixed", many)


async def main(argv):
    stdio = argv[argv.index("--") + 1 :] if "--" in argv else None
    if not stdio and not E("MESH_INGRESS_URL"):
        print(__doc__)
        return 2
    try:
        with anyio.fail_after(float(E("MESH_TOTAL_TIMEOUT", "240"))):
            await run(stdio)
    except BaseException as e:  # noqa: BLE001
        check("run", False, flat(e))
        if E("MESH_TRACE"):
            traceback.print_exc()
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(anyio.run(main, sys.argv[1:]))
