#!/usr/bin/env python3
"""The desk of approvals in a real browser: a person logs in, reads a call, and lets it go on.

    desk.py --start target/debug/outrigger --subjects target/subjects --chromium "$(tests/browser/install.sh)"

Last line: `N passed, M failed`.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "acceptance"))

from mesh import Processes, Subjects, start_mesh  # noqa: E402

# For the browser with all that it does, and for a call that waits for it: a loaded machine takes minutes to start one.
PATIENCE = 300

POLICY = """apiVersion: mcpx.io/v1
kind: SecurityPolicy
metadata: { name: p }
spec:
  authorization:
    rules:
      - { name: reading, services: [fs], capabilities: [readFileText], approval: { role: boss } }
"""


def call(url: str, token: str, arguments: dict) -> dict:
    meta = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}
    params = {"name": "fs__readFileText", "arguments": arguments, "_meta": meta}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()
    headers = {
        "Authorization": f"Bearer {token}", "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": "tools/call", "Mcp-Name": "fs__readFileText",
    }
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=PATIENCE) as answer:
        text = answer.read().decode()
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith(("data: ", "{"))]
    return json.loads(lines[-1])


def drive(argv: list[str], folder: Path) -> tuple[int, str, str]:
    """Runs the browser's driver; nothing is left of either, nor of the profile in `folder`, however it ends."""
    child = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, env={**os.environ, "TMPDIR": str(folder)}
    )
    try:
        out, err = child.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        # The browser holds the same pipes: they end with the whole group.
        os.killpg(child.pid, signal.SIGKILL)
        out, err = child.communicate()
        err += f"\nkilled after {PATIENCE} seconds"
    with contextlib.suppress(ProcessLookupError):
        # A driver that failed may have left the browser behind.
        os.killpg(child.pid, signal.SIGKILL)
    return child.returncode, out, err


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--start", required=True)
    options.add_argument("--subjects", required=True, type=Path)
    options.add_argument("--chromium", required=True)
    options = options.parse_args()
    subjects = Subjects(options.subjects.resolve())
    subjects.check()
    binary = str(Path(options.start).resolve())
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, Processes(Path(folder) / "logs", {"PATH": "/usr/bin:/bin"}) as processes:
        root = Path(folder)
        (root / "files").mkdir()
        (root / "files" / "hello.txt").write_text("hello from a file")
        (root / "policy.yaml").write_text(POLICY)
        manifest = {"ingress": {"listen": "127.0.0.1:0"}, "services": {"fs": {"example": "fs", "args": ["--root", str(root / "files")]}}}
        up = start_mesh(processes, binary, manifest, root / "state", ["fs"]).document
        # A second ingress, which knows two people.
        tokens = [
            {"subject": name, "sha256": hashlib.sha256(f"{name}-token".encode()).hexdigest(), "roles": roles}
            for name, roles in [("ada", []), ("carol", ["boss"])]
        ]
        identity = {name: str(root / "state" / "identity" / file) for name, file in [("cert", "ingress.pem"), ("key", "ingress.key")]}
        identity |= {name: str(root / "state" / "ca" / file) for name, file in [("ca", "ca.pem"), ("crl", "crl.pem")]}
        # `up` gives each part a directory of its own.
        for name in ("cert", "key"):
            found = list((root / "state" / "identity").rglob(Path(identity[name]).name))
            identity[name] = str(found[0])
        settings = {
            "listen": "127.0.0.1:0", "admin": {"listen": "127.0.0.1:0"}, "tokens": tokens,
            # The calls wait while the browser starts.
            "approvals": {"hold": "10m"},
            "identity": {"trust_domain": "demo.outrigger.local", **identity}, "policy": [str(root / "policy.yaml")],
            "services": {"fs": {"addresses": [up["services"]["fs"]["sidecar"]]}}, "audit": str(root / "audit.jsonl"),
        }
        domain = json.loads((root / "state" / "up.json").read_text()).get("trust_domain")
        if domain:
            settings["identity"]["trust_domain"] = domain
        (root / "ingress.yaml").write_text(json.dumps(settings))
        report = root / "second.at"
        child = processes.start(
            "second", [binary, "ingress", "--config", str(root / "ingress.yaml")], {"OUTRIGGER_REPORT": str(report)}
        )

        def ready() -> bool:
            if not report.exists():
                return False
            try:
                with urllib.request.urlopen(f"http://{json.loads(report.read_text())['admin']}/readyz", timeout=2) as answer:
                    return answer.status == 200
            except OSError:
                return False

        processes.wait_until("second", child, ready)
        at = json.loads(report.read_text())
        answers: list[dict] = []
        url = f"http://{at['mcp']}/mcp"
        evil = "hello.txt<img src=x onerror=document.title='owned'>\u202e"
        paths = ["hello.txt", evil]
        callers = [threading.Thread(target=lambda path=path: answers.append(call(url, "ada-token", {"path": path})), daemon=True) for path in paths]
        for caller in callers:
            caller.start()
        code, out, err = drive([subjects.node, str(HERE / "desk.mjs"), options.chromium, f"http://{at['admin']}"], root)
        lines = [line for line in out.splitlines() if line.startswith(("ok  ", "FAIL"))]
        if code:
            lines.append(f"FAIL the browser ended with {code}: {err[-800:]}")
        for caller in callers:
            # Calls that nobody looked at wait on, to no purpose.
            caller.join(1 if code else PATIENCE)
        texts = sorted(json.dumps(answer.get("result") or answer.get("error")) for answer in answers)
        good = len(texts) == 2 and any("hello from a file" in text for text in texts) and any("did not approve" in text for text in texts)
        lines.append(("ok  " if good else "FAIL") + " one call went on and the other did not" + ("" if good else f" {texts}"))
    print("\n".join(lines))
    failed = sum(line.startswith("FAIL") for line in lines)
    print(f"{len(lines) - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
