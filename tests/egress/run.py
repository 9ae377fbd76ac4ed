#!/usr/bin/env python3
"""Attack cases on egress, by every way out: the proxy, redirection by the kernel, and a confined child. Needs root.

    run.py --bin target/debug --subjects target/subjects [--only REGEX] [--stage explicit,redirected,meshed,inspected,confined,learned]

Each case of cases.json is sent by a server that was taken over (attacker.py) in a network namespace of its own, and judged by
what arrived in another one (world.py). Then unchanged servers do their work behind the same rules. Last line: `N passed, M failed`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from bed import HERE, Bed, Broken, run
from judge import RULED_NAMES, VERDICTS, Seen, nothing

ALLOW = [f"{name}{port}" for name in ("allowed.test", "*.wild.test", "xn--bcher-kva.test") for port in ("", ":80")]
STAGES = ["explicit", "redirected", "meshed", "inspected", "confined", "learned"]
# Who the sidecar is, as far as the kernel's rules go.
SIDECAR = 1337
# A server as containers have it: root, without a right to anything of the kernel's.
POWERLESS = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"]
# An address of the world, where another sidecar is.
FAR = "20.20.20.11"
# Until what was sent has arrived, or would have.
SETTLE = 0.1

Send = Callable[[str, dict, str], str]


class Run:
    """The stages, and what came of them."""

    def __init__(self, bed: Bed, binaries: Path, python: str, cases: list[dict]):
        self.bed, self.binaries, self.python, self.cases = bed, binaries, python, cases
        self.passed, self.failed, self.sent = 0, 0, 0

    def check(self, name: str, good: bool, detail: object) -> None:
        self.passed, self.failed = self.passed + good, self.failed + (not good)
        if not good:
            print(f"FAIL {name}: {detail}", flush=True)

    def try_cases(self, stage: str, send: Send, ways: dict[str, str | None]) -> None:
        """Every case by each way. `None`: as the case expects; `nothing`: nothing may arrive at all."""
        begun = self.passed
        for way, must in ways.items():
            for case in self.cases:
                if way not in case.get("ways", [way]):
                    continue
                if way == "socks" and case["kind"] == "get" and case["expect"] == "allow":
                    # Port 80 is for requests that can be read, not for tunnels.
                    case = {**case, "expect": "deny"}
                self.try_case(f"{stage}, {way}: {case['id']}", way, case, send, must)
        names = sorted({hit["dns"] for hit in self.bed.hits if "dns" in hit and not RULED_NAMES.match(hit["dns"])})
        self.check(f"{stage}: names that no rule names are not looked up", not names, names)
        print(f"ok   {stage}: {self.passed - begun} checks", flush=True)

    def try_case(self, name: str, way: str, case: dict, send: Send, must: str | None) -> None:
        for _ in range(case.get("repeat", 1)):
            self.sent += 1
            mark, begin = f"N{self.sent}x", len(self.bed.hits)
            said = send(way, case, mark)
            time.sleep(SETTLE)
            # Without a sandbox a server may talk to itself and its neighbours in the pod.
            own = way in ("direct", "forged") and must is None
            seen = Seen([hit for hit in self.bed.hits[begin:] if not (own and hit["inner"])], mark)
            judge = nothing if must == "nothing" else VERDICTS[case["expect"]]
            self.check(name, judge(seen, case, said), f"want {must or case['expect']}; {seen}; said {said[:200]!r}")

    def attacker(self, **env: str) -> Send:
        child = self.bed.start(self.bed.pod, *POWERLESS, self.python, str(HERE / "attacker.py"), **env)

        def send(way: str, case: dict, mark: str) -> str:
            return self.bed.ask(child, {"way": way, "case": case, "mark": mark})

        return send

    def sidecar(self, only: str = "--egress-only", **settings: str) -> subprocess.Popen:
        # That user may not see where it was built.
        binary = shutil.copy(self.binaries / "outrigger-sidecar", self.bed.directory)
        report = self.bed.directory / "report"
        allow = {"EGRESS_ALLOW": ",".join(ALLOW)}
        env = {f"OUTRIGGER_{name}": value for name, value in {**allow, **settings}.items() if value is not None}
        return self.bed.start_and_wait(
            report,
            *["setpriv", "--reuid", str(SIDECAR), "--regid", str(SIDECAR), "--clear-groups", binary],
            *[only] * (only != "--"),
            OUTRIGGER_REPORT=str(report),
            OUTRIGGER_EGRESS_LISTEN="127.0.0.1:15001",
            **{"OUTRIGGER_EGRESS_LOG": "off", "OUTRIGGER_ADMIN_LISTEN": "127.0.0.1:15021", **env},
        )

    def explicit(self) -> None:
        sidecar = self.sidecar()
        send = self.attacker(HTTP_PROXY="http://127.0.0.1:15001")
        self.try_cases("explicit", send, {"proxy": None, "socks": None})
        self.bed.end(sidecar)

    def redirected(self) -> None:
        sidecar = self.sidecar(EGRESS_TRANSPARENT="true", EGRESS_DNS_LISTEN="127.0.0.1:15053")
        redirect = ["ip", "netns", "exec", self.bed.pod, str(self.binaries / "outrigger-sidecar"), "redirect"]
        run(*redirect, "install", "--uid", str(SIDECAR), "--dns-port", "15053")
        send = self.attacker()
        self.try_cases("redirected", send, {"direct": None, "forged": None})
        for name, server in SERVERS.items():
            call = self.caller("--", *server.command, **server.environment(self.bed.directory))
            self.use("redirected", name, server, call)
        run(*redirect, "remove")
        self.bed.end(sidecar)

    def meshed(self) -> None:
        """A redirected client that knows of no proxy calls a service of the mesh: another sidecar outside, over mTLS."""
        directory, domain = self.bed.directory, "egress.outrigger.local"
        run(str(self.binaries / "outrigger"), "ca", "init", "--trust-domain", domain, "--dir", str(directory / "ca"))
        for name in ("asker", "far", "other"):
            run(str(self.binaries / "outrigger"), "ca", "issue", name, "--dir", str(directory / "ca"), "--out", str(directory))
            # The sidecar runs as another user.
            (directory / f"{name}.key").chmod(0o644)
        shutil.copy(directory / "ca" / "ca.pem", directory / "mesh-ca.pem")
        (directory / "mesh-ca.pem").chmod(0o644)

        def identity(name: str) -> dict[str, str]:
            own = {"TRUST_DOMAIN": domain, "CERT": f"{directory}/{name}.pem", "KEY": f"{directory}/{name}.key", "CA": f"{directory}/mesh-ca.pem"}
            return {"SERVICE": name, **own}

        rule = {"name": "asker-echoes", "services": ["far"], "capabilities": ["echo"], "requires": [{"workload": "asker"}]}
        policy = {"apiVersion": "mcpx.io/v1", "kind": "SecurityPolicy", "metadata": {"name": "far"}, "spec": {"authorization": {"rules": [rule]}}}
        (directory / "far.yaml").write_text(json.dumps(policy))
        far = {"COMMAND": "mcp-server-everything stdio", "LISTEN": f"{FAR}:9443", "ADMIN_LISTEN": "127.0.0.1:0", "POLICY": str(directory / "far.yaml")}
        logs = {"ACCESS_LOG": str(directory / "far.jsonl"), "REPORT": str(directory / "far-report")}
        env = {f"OUTRIGGER_{name}": value for name, value in {**far, **logs, **identity("far")}.items()}
        answering = self.bed.start_and_wait(directory / "far-report", str(self.binaries / "outrigger-sidecar"), namespace=self.bed.world, **env)
        # `other` is somebody else at the same address, and `absent` is nowhere.
        file = directory / "asker.yaml"
        services = {name: f"{FAR}:9443" for name in ("far", "other")}
        file.write_text(json.dumps({"mesh": {"services": services}, "upstream": "http://127.0.0.1:9/mcp"}))
        file.chmod(0o644)
        log = directory / "asker.egress.jsonl"
        log.touch()
        log.chmod(0o666)
        own = {"CONFIG": str(file), "EGRESS_ALLOW": "far.mesh,other.mesh", "EGRESS_TRANSPARENT": "true", "EGRESS_LOG": str(log)}
        near = {"EGRESS_DNS_LISTEN": "127.0.0.1:15053", "LISTEN": "127.0.0.1:0", **identity("asker")}
        calling = self.sidecar("--", **own, **near)
        redirect = ["ip", "netns", "exec", self.bed.pod, str(self.binaries / "outrigger-sidecar"), "redirect"]
        run(*redirect, "install", "--uid", str(SIDECAR), "--dns-port", "15053")
        try:
            call = self.caller("--url", "http://far.mesh/mcp")
            said = call("echo", {"message": "ahoy"})
            self.check("meshed: a tool that the far policy allows", "ahoy" in said, said)
            said = call("get-sum", {"a": 1, "b": 2})
            # Who may not see a tool is told that there is none.
            self.check("meshed: a tool that it does not allow", said == "error: Unknown tool: get-sum", said)
            for name in ("other", "absent", "evil"):
                said = self.bed.ask(self.bed.start(self.bed.pod, *POWERLESS, self.python, str(HERE / "attacker.py")), {
                    "way": "direct", "case": {"kind": "get", "url": f"http://{name}.mesh/mcp"}, "mark": "x"})
                self.check(f"meshed: {name}.mesh", not said.startswith("HTTP/1.1 2") and "mcp" not in said, said)
        finally:
            run(*redirect, "remove")
            self.bed.end(calling)
            self.bed.end(answering)
        asked = [json.loads(line) for line in log.read_text().splitlines()]
        heard = [json.loads(line) for line in (directory / "far.jsonl").read_text().splitlines()]
        traces = {line["trace_id"] for line in asked if line["host"] == "far.mesh" and line["verdict"] == "allowed"}
        named = [line for line in heard if f"spiffe://{domain}/asker" in json.dumps(line)]
        self.check("meshed: the far access log names the caller", bool(named) and len(named) == len(heard), heard)
        self.check("meshed: one trace on both sides", bool(named) and all(line["trace_id"] in traces for line in named), (asked, heard))
        print("ok   meshed: a service of the mesh by its name", flush=True)

    def inspected(self) -> None:
        """The same with TLS read inside, where what was said in the clear is said again."""
        rule = {"name": "inside", "hosts": [name.removesuffix(":80") for name in ALLOW[::2]], "inspect": True, "ports": [80, 443]}
        settings = {"rules": [rule], "inspection": {"ca": [str(self.bed.directory / "ca.pem")]}}
        file = self.bed.directory / "inspect.yaml"
        # JSON is YAML.
        file.write_text(json.dumps({"egress": settings}))
        file.chmod(0o644)
        (self.bed.directory / "ca.pem").chmod(0o644)
        own = {"CONFIG": str(file), "EGRESS_TRANSPARENT": "true", "EGRESS_DNS_LISTEN": "127.0.0.1:15053", "EGRESS_ALLOW": None}
        sidecar = self.sidecar(**own)
        outside, self.cases = self.cases, [*map(told_apart, self.cases), *filter(None, map(inside, self.cases))]
        self.try_cases("inspected", self.attacker(HTTP_PROXY="http://127.0.0.1:15001"), {"proxy": None, "socks": None})
        redirect = ["ip", "netns", "exec", self.bed.pod, str(self.binaries / "outrigger-sidecar"), "redirect"]
        run(*redirect, "install", "--uid", str(SIDECAR), "--dns-port", "15053")
        self.try_cases("inspected", self.attacker(), {"direct": None, "forged": None})
        run(*redirect, "remove")
        self.cases = outside
        self.bed.end(sidecar)

    def confined(self) -> None:
        attacker = {"command": [self.python, str(HERE / "attacker.py"), "--mcp"], "confine": {"read": [str(HERE)]}}
        services = {"attacker": attacker}
        for name, server in SERVERS.items():
            settings = {"command": server.command, "confine": {"read": [str(self.bed.directory / "ca.pem")]}}
            env = server.environment(self.bed.directory)
            services[name] = {**settings, "env": env}
            # Told to use no proxy at all: it has no way out then.
            services[f"{name}-stubborn"] = {**settings, "env": {**env, "NO_PROXY": "*", "no_proxy": "*"}}
        for service in services.values():
            service |= {"sandbox": "strict", "egress": {"allow": ALLOW}}
        mesh = self.mesh(services)
        tool = self.caller("--url", mesh["mcp"].replace("/mcp", "/s/attacker/mcp"), "--token", mesh["token_file"])

        def send(way: str, case: dict, mark: str) -> str:
            return tool("attempt", {"way": way, "case": json.dumps(case), "mark": mark})

        ways = {"proxy": None, "socks": None, "direct": "nothing", "forged": "nothing"}
        self.try_cases("confined", send, ways)
        for name, server in SERVERS.items():
            for name in (name, f"{name}-stubborn"):
                call = self.caller("--url", mesh["mcp"].replace("/mcp", f"/s/{name}/mcp"), "--token", mesh["token_file"])
                self.use("confined", name, server, call)
        self.bed.end(self.up)
        shutil.rmtree(self.bed.directory / "mesh")

    def learned(self) -> None:
        """Rules made of what was observed let the same through, and nothing else."""
        server = SERVERS["fetch"]
        settings = {"command": server.command, "sandbox": "strict", "env": server.environment(self.bed.directory)}
        settings["confine"] = {"read": [str(self.bed.directory / "ca.pem")]}
        rules = {"mode": "observe"}
        for mode in ("observe", "enforce"):
            mesh = self.mesh({"fetch": {**settings, "egress": rules}})
            call = self.caller("--url", mesh["mcp"].replace("/mcp", "/s/fetch/mcp"), "--token", mesh["token_file"])
            # Where nothing is enforced, special addresses are refused all the same.
            inside = "http://ten.wild.test"
            for url in ("https://allowed.test", *(["https://evil.test", "http://allowed.test"] if mode == "enforce" else []), inside):
                self.sent += 1
                mark, begin = f"N{self.sent}x", len(self.bed.hits)
                said = call(server.tool, server.arguments(f"{url}/{mark}"))
                time.sleep(SETTLE)
                seen = Seen(self.bed.hits[begin:], mark)
                good = bool(seen.requests) if url == "https://allowed.test" else not seen.dialled
                self.check(f"learned, {mode}: {url}", good, f"{seen}; said {said[:300]!r}")
            self.bed.end(self.up)
            log = self.bed.directory / "mesh" / "logs" / "fetch.egress.jsonl"
            rules = yaml.safe_load(run(str(self.binaries / "outrigger"), "egress", "suggest", str(log)))["egress"]
            shutil.rmtree(self.bed.directory / "mesh")
        print("ok   learned: rules from what was observed", flush=True)

    def mesh(self, services: dict) -> dict:
        """Runs `outrigger up` in the pod; what its up.json says."""
        state = self.bed.directory / "mesh"
        state.mkdir()
        # JSON is YAML.
        (state / "mesh.yaml").write_text(json.dumps({"ingress": {"listen": "127.0.0.1:0"}, "services": services}, indent=2))
        command = [str(self.binaries / "outrigger"), "up", "-f", str(state / "mesh.yaml"), "--dir", str(state)]
        self.up = self.bed.start_and_wait(state / "up.json", *command)
        return json.loads((state / "up.json").read_text())

    def caller(self, *options: str, **env: str) -> Callable[[str, dict], str]:
        """Calls tools by the SDK, from inside the pod."""
        child = self.bed.start(self.bed.pod, *POWERLESS, self.python, str(HERE / "caller.py"), *options, **env)
        if not child.stdout.readline():
            raise Broken(f"caller.py {' '.join(options)}: {child.log.read_text(errors='replace')[-2000:]}")

        def call(tool: str, arguments: dict) -> str:
            return self.bed.ask(child, {"tool": tool, "arguments": arguments})

        return call

    def use(self, stage: str, name: str, server: Server, call: Callable[[str, dict], str]) -> None:
        """An unchanged server fetches what it may, and nothing else."""
        for url, allowed in URLS.items():
            if stage == "confined":
                plain_tunnel = server.tunnels_only and url.startswith("http:")
                allowed = allowed and not plain_tunnel and not name.endswith("-stubborn")
            self.sent += 1
            mark, begin = f"N{self.sent}x", len(self.bed.hits)
            said = call(server.tool, server.arguments(f"{url}/{mark}"))
            time.sleep(SETTLE)
            seen = Seen(self.bed.hits[begin:], mark)
            good = bool(seen.requests) and not seen.strayed if allowed else not seen.dialled
            self.check(f"{stage}, {name}: {url}", good, f"{seen}; said {said[:300]!r}")
        print(f"ok   {stage}: {name}", flush=True)


def told_apart(case: dict) -> dict:
    """What nobody sees in a tunnel is seen inside: a request for somebody else."""
    return {**case, "expect": "deny_request"} if case["id"] == "front-host-evil" else case


def inside(case: dict) -> dict | None:
    """A case of bare bytes as a server hears it, inside TLS; a CONNECT has no such form."""
    if case["kind"] != "raw" or case["data"].startswith(("CONNECT", "PRI")):
        return None
    data = case["data"].replace("http://allowed.test", "", 1)
    # Before it is refused, its destination may hear that somebody connects.
    expect = "deny_request" if case["expect"] == "deny" else case["expect"]
    own = {"kind": "connect", "authority": "allowed.test:443", "id": f"{case['id']}, inside", "expect": expect, "data": data}
    return {**{name: value for name, value in case.items() if name != "ways"}, **own}


@dataclass(frozen=True)
class Server:
    """A published server with a tool that fetches a URL."""

    command: list[str]
    tool: str
    arguments: Callable[[str], dict]
    # The variable by which its runtime learns of the origins' authority.
    authority: str
    # It asks the proxy for a tunnel also where a plain request would do, and port 80 is not for tunnels.
    tunnels_only: bool = False

    def environment(self, directory: Path) -> dict[str, str]:
        return {self.authority: str(directory / "ca.pem")}


SERVERS = {
    "fetch": Server(["mcp-server-fetch", "--ignore-robots-txt"], "fetch", lambda url: {"url": url, "raw": True}, "SSL_CERT_FILE"),
    "everything": Server(
        ["mcp-server-everything"],
        "gzip-file-as-resource",
        lambda url: {"name": "a.gz", "data": url, "outputType": "resource"},
        "NODE_EXTRA_CA_CERTS",
        tunnels_only=True,
    ),
}
# What servers are asked to fetch, and whether they may.
URLS = {
    "https://allowed.test": True,
    "http://allowed.test": True,
    "https://deep.wild.test": True,
    "https://evil.test": False,
    "http://evil.test": False,
    "https://allowed.test:8443": False,
    "http://meta.wild.test": False,
    "http://169.254.169.254": False,
    "https://20.20.20.66": False,
    "http://lo4.wild.test": False,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=Path, required=True, help="folder with outrigger and outrigger-sidecar")
    parser.add_argument("--subjects", type=Path, required=True, help="what `make subjects` installed")
    parser.add_argument("--only", default="", help="cases whose id matches this regular expression")
    parser.add_argument("--stage", default=",".join(STAGES))
    args = parser.parse_args()
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "nft", "openssl"))):
        print("this needs root and: apt-get install -y nftables iproute2 openssl", file=sys.stderr)
        return 2
    os.environ["PATH"] = f"{args.subjects}/npm/node_modules/.bin:{args.subjects}/venv/bin:{os.environ['PATH']}"
    cases = [case for case in json.loads((HERE / "cases.json").read_text()) if re.search(args.only, case["id"])]
    with tempfile.TemporaryDirectory(prefix="egress-") as directory:
        # The sidecar runs as another user.
        os.chmod(directory, 0o777)
        with Bed(Path(directory)) as bed:
            attempts = Run(bed, args.bin.resolve(), str(args.subjects / "venv/bin/python3"), cases)
            for stage in args.stage.split(","):
                getattr(attempts, stage)()
    print(f"{attempts.passed} passed, {attempts.failed} failed")
    return 1 if attempts.failed or not attempts.passed else 0


if __name__ == "__main__":
    sys.exit(main())
