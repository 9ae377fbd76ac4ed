#!/usr/bin/env python3
"""Official MCP clients log in at a real identity provider and call through a whole mesh.

    run.py --start target/debug/outrigger --subjects target/subjects

Two providers (`provider.mjs`), one with JWTs and one with opaque tokens, and `outrigger up` with both. The clients know nothing
but the URL of the endpoint: challenge, metadata, registration, authorization code with PKCE, token, call, refresh, and
further scopes when a call asks for them. Last line: `N passed, M failed`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import shutil
import sys
import urllib.parse
from pathlib import Path

import httpx2
from mcp import Client
from mcp.client.auth import OAuthClientProvider
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientMetadata

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent / "acceptance"))

from mesh import NotReady, Processes, Subjects, free_port, start_mesh  # noqa: E402

REDIRECT = "http://127.0.0.1:9/callback"
POLICY = """
apiVersion: mcpx.io/v1
kind: SecurityPolicy
metadata: { name: people }
spec:
  authorization:
    rules:
      - { name: list, services: [fs], capabilities: [listDir], requires: [ { scope: "files:list" } ] }
      - { name: read, services: [fs], capabilities: [readFileText], requires: [ { scope: "files:read" } ] }
      - { name: research, services: [vector], capabilities: ["*"], requires: [ { claim: { name: department, any: [research] } } ] }
"""
passed = failed = 0


def check(name: str, ok: bool, note: object = "") -> None:
    global passed, failed
    passed, failed = passed + bool(ok), failed + (not ok)
    print(f"{'ok  ' if ok else 'FAIL'} {name}" + (f"  -- {note}" if note and not ok else ""), flush=True)


class Storage:
    """Keeps what the client was given, in memory."""

    def __init__(self) -> None:
        self.tokens = self.client = None

    async def get_tokens(self):
        return self.tokens

    async def set_tokens(self, tokens) -> None:
        self.tokens = tokens

    async def get_client_info(self):
        return self.client

    async def set_client_info(self, client) -> None:
        self.client = client


class Person:
    """Somebody with an MCP client, and a browser that agrees to everything."""

    def __init__(self, name: str, endpoint: str, server: int = 0):
        self.name, self.endpoint, self.server = name, endpoint, server
        self.storage = Storage()
        self.logins: list[dict[str, str]] = []
        self.seen: list[tuple[int, str]] = []
        self.came_back: httpx2.URL | None = None
        metadata = OAuthClientMetadata(
            client_name="test", redirect_uris=[REDIRECT], grant_types=["authorization_code", "refresh_token"]
        )
        self.oauth = Login(endpoint, metadata, self.storage, self.browse, self.returned)
        self.oauth.server = server

    async def browse(self, url: str) -> None:
        self.logins.append(dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(url).query)))
        async with httpx2.AsyncClient(trust_env=False, headers={"X-Test-User": self.name}) as browser:
            for _ in range(10):
                answer = await browser.get(url)
                if answer.next_request is None:
                    raise AssertionError(f"the provider asks something: {answer.status_code} {answer.text[:500]}")
                self.came_back = answer.next_request.url
                if str(self.came_back).startswith(REDIRECT):
                    return
                url = str(self.came_back)

    async def returned(self) -> AuthorizationCodeResult:
        answer = dict(self.came_back.params)
        if "code" not in answer:
            raise AssertionError(f"the provider refuses: {answer}")
        return AuthorizationCodeResult(code=answer.get("code"), state=answer.get("state"), iss=answer.get("iss"))

    def client(self, mode: str) -> tuple[httpx2.AsyncClient, Client]:
        async def note(response) -> None:
            self.seen.append((response.status_code, response.headers.get("www-authenticate", "")))

        http = httpx2.AsyncClient(
            auth=self.oauth, trust_env=False, timeout=httpx2.Timeout(60), event_hooks={"response": [note]}
        )
        return http, Client(streamable_http_client(self.endpoint, http_client=http), mode=mode)

    def challenges(self, status: int) -> list[str]:
        return [challenge for found, challenge in self.seen if found == status and challenge]


class Login(OAuthClientProvider):
    """The client's own flow, at the provider of this number among those that the endpoint names."""

    server = 0

    def _select_authorization_server(self, advertised: list[str]) -> str:
        return advertised[self.server]


def text(result) -> str:
    return "".join(getattr(part, "text", "") for part in result.content)


async def call(client, tool: str, arguments: dict):
    """The text of the result; for a refusal, what the client was told."""
    try:
        return text(await client.call_tool(tool, arguments))
    except Exception as error:  # noqa: BLE001
        return error


async def a_whole_login(mesh, server: int, mode: str) -> None:
    kind = ["JWT", "opaque"][server]
    at = f"{kind}, {mode}: "
    ada = Person("ada", mesh.service("fs"), server)
    http, client = ada.client(mode)
    async with http, client as session:
        tools = [tool.name for tool in (await session.list_tools()).tools]
        check(at + "logs in and lists what its scope allows", tools == ["listDir"], tools)
        first = ada.challenges(401)[0]
        check(at + "the challenge leads to the metadata", "resource_metadata=" in first and "files:list" in first, first)
        wanted = {"resource": ada.endpoint, "code_challenge_method": "S256", "scope": "files:list offline_access"}
        asked = ada.logins[0]
        check(at + "asks for this resource and this scope, with PKCE", wanted.items() <= asked.items(), asked)
        token = ada.storage.tokens.access_token
        check(at + "the token is what it should be", (token.count(".") == 2) == (kind == "JWT"))
        found = await call(session, "listDir", {"path": "."})
        check(at + "calls", "hello.txt" in str(found), found)

        ada.oauth.context.token_expiry_time = 1
        found = await call(session, "listDir", {"path": "."})
        renewed = ada.storage.tokens.access_token
        check(at + "refreshes", "hello.txt" in str(found) and renewed != token and len(ada.logins) == 1, found)

        found = await call(session, "readFileText", {"path": "hello.txt"})
        check(at + "gets a further scope when a call needs it", "good morning" in str(found), found)
        step = (ada.challenges(403) or [""])[0]
        right = all(part in step for part in ['error="insufficient_scope"', 'scope="files:read"', "resource_metadata="])
        check(at + "which the challenge names", right and len(ada.logins) == 2, (step, ada.logins))
        tools = sorted(tool.name for tool in (await session.list_tools()).tools)
        check(at + "and then sees more", tools == ["listDir", "readFileText"], tools)


async def claims_decide(mesh, server: int) -> None:
    kind = ["JWT", "opaque"][server]
    for name, seen in [("ada", True), ("bob", False)]:
        person = Person(name, mesh.merged, server)
        http, client = person.client("auto")
        async with http, client as session:
            tools = [tool.name for tool in (await session.list_tools()).tools]
            found = any(tool.startswith("vector__") for tool in tools)
            check(f"{kind}: {name} sees what the claim allows", found is seen, tools)
            if not seen:
                await call(session, "vector__search", {"query": "x"})
            challenged = person.challenges(403)
            check(f"{kind}: {name} is asked for no scope that would not help", not challenged, challenged)


async def refused(mesh, issuers: list[str]) -> None:
    """Tokens of real providers, where they are no good."""
    people = [Person("ada", mesh.service("fs"), server) for server in (0, 1)]
    tokens = []
    for person in people:
        http, client = person.client("auto")
        async with http, client as session:
            await session.list_tools()
        tokens.append(person.storage.tokens)
    request = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": {}}}

    async def status(url: str, token: str | None, **more) -> int:
        headers = {"Accept": "application/json, text/event-stream"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        async with httpx2.AsyncClient(trust_env=False, headers=headers) as http:
            return (await http.post(url, json=request, **more)).status_code

    for kind, token in zip(("JWT", "opaque"), tokens, strict=True):
        check(f"{kind}: no good at a sibling", await status(mesh.service("vector"), token.access_token) == 401)
        check(f"{kind}: no good at the merged endpoint", await status(mesh.merged, token.access_token) == 401)
        check(f"{kind}: a refresh token opens nothing", await status(mesh.service("fs"), token.refresh_token) == 401)
        there = mesh.service("fs") + "?access_token=" + token.access_token
        check(f"{kind}: no good in the address", await status(there, None) == 401)
    check("a made-up token is refused", await status(mesh.service("fs"), secrets.token_urlsafe(32)) == 401)

    # The provider takes the opaque one back.
    person, token = people[1], tokens[1].access_token
    check("opaque: good until then", await status(mesh.service("fs"), token) != 401)
    client = {"client_id": person.storage.client.client_id, "client_secret": person.storage.client.client_secret or ""}
    async with httpx2.AsyncClient(trust_env=False) as http:
        answer = await http.post(f"{issuers[1]}/token/revocation", data={"token": token, **client})
    deadline = asyncio.get_running_loop().time() + 30
    while await status(mesh.service("fs"), token) != 401 and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.1)
    check("opaque: a token that was taken back ends", await status(mesh.service("fs"), token) == 401, answer.text)


async def the_sidecar_knows(audit: Path) -> None:
    """Behind the ingress, too, the user is who called."""
    wanted = {"who": "user:ada", "via": "spiffe://oauth.outrigger.local/ingress", "capability": "listDir"}
    deadline = asyncio.get_running_loop().time() + 30
    while not (found := any(wanted.items() <= json.loads(line).items() for line in audit.open(encoding="utf-8"))):
        if asyncio.get_running_loop().time() > deadline:
            break
        await asyncio.sleep(0.1)
    check("the audit of the sidecar names the user, and the ingress that called for it", found)


async def typescript(mesh, subjects: Subjects) -> None:
    """The other official client, a process of its own (`client.mjs`)."""
    global passed, failed
    # Modules are found from where the file is.
    program = subjects.root / "npm" / "oauth-client.mjs"
    shutil.copy(HERE / "client.mjs", program)
    for mode in ("auto", "legacy"):
        process = await asyncio.create_subprocess_exec(
            subjects.node, str(program), mesh.service("fs"), mode, stdout=asyncio.subprocess.PIPE, env=subjects.environment()
        )
        said = (await asyncio.wait_for(process.communicate(), 120))[0].decode()
        *lines, total = said.splitlines() or [""]
        print("\n".join(lines), flush=True)
        counts = [int(word) for word in total.replace(",", "").split() if word.isdigit()]
        check(f"TypeScript, {mode}: it came to its end", len(counts) == 2, said[-500:])
        passed, failed = passed + sum(counts[:1]), failed + sum(counts[1:])


async def everything(mesh, issuers: list[str], subjects: Subjects) -> None:
    for server, mode in [(0, "auto"), (0, "legacy"), (1, "auto")]:
        await a_whole_login(mesh, server, mode)
    for server in (0, 1):
        await claims_decide(mesh, server)
    await typescript(mesh, subjects)
    await refused(mesh, issuers)


def manifest(port: int, state: Path, issuers: list[str], secret: Path) -> dict:
    mapped = {"roles_claim": "roles", "claims": {"department": "org.department"}}
    opaque = {"client_id": "outrigger", "client_secret_file": str(secret), "cache": "1s"}
    return {
        "mesh": "oauth",
        "ingress": {
            "listen": f"127.0.0.1:{port}",
            "public_url": f"http://127.0.0.1:{port}",
            "oauth": {
                "scopes": ["files:list"],
                "step_up": ["files:read"],
                "issuers": [
                    {"issuer": issuers[0], **mapped},
                    {"issuer": issuers[1], "subject_prefix": "two/", "introspection": opaque, **mapped},
                ],
            },
        },
        "policy": [str(state / "people.yaml")],
        "services": {"fs": {"example": "fs", "args": ["--root", str(state / "files")]}, "vector": {"example": "vector"}},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--start", required=True, help="the `outrigger` binary")
    parser.add_argument("--subjects", type=Path, required=True, help="where `make subjects` installed")
    args = parser.parse_args()
    subjects = Subjects(args.subjects.resolve())
    subjects.check()
    logs = ROOT / "target" / "oauth"
    shutil.rmtree(logs, ignore_errors=True)
    state = logs / "mesh"
    (state / "files").mkdir(parents=True)
    (state / "files" / "hello.txt").write_text("good morning\n", encoding="utf-8")
    (state / "people.yaml").write_text(POLICY, encoding="utf-8")
    secret = state / "client-secret"
    secret.touch(mode=0o600)
    secret.write_text(secrets.token_urlsafe(24), encoding="utf-8")
    # Modules are found from where the file is.
    program = subjects.root / "npm" / "provider.mjs"
    shutil.copy(HERE / "provider.mjs", program)
    with Processes(logs, subjects.environment()) as processes:
        issuers = []
        for name in ("jwt", "opaque"):
            port = free_port()
            argv = [subjects.node, str(program), str(port), name, secret.read_text(encoding="utf-8")]
            processes.serve(f"provider-{name}", argv, port)
            issuers.append(f"http://127.0.0.1:{port}")
        wanted = manifest(free_port(), state, issuers, secret)
        mesh = start_mesh(processes, str(Path(args.start).resolve()), wanted, state / "up", ["fs", "vector"])
        asyncio.run(everything(mesh, issuers, subjects))
        asyncio.run(the_sidecar_knows(state / "up" / "logs" / "fs.audit.jsonl"))
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except NotReady as error:
        sys.exit(f"oauth: {error}")
