"""The mesh that is soaked: that of the drills, and before it an ingress of its own with short times, beside it sidecars of our own."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "drills"))

from world import HTTP, STDIO, Member, Subjects, World, free_port  # noqa: E402

# A server with sessions of 2025-11-25 that nobody here wrote.
SESSIONS = "sessions"
# What would otherwise wait for minutes ends within this, so that a rest shows what never ends.
SHORT = "10s"


class Bed(World):
    """`front` is where the load comes in; `out` is a second sidecar of the drill's server, through which tunnels go."""

    front: Member
    out: Member
    kept: Member

    def __init__(self, binary: str, subjects: Subjects, root: Path):
        super().__init__(binary, subjects, root)
        self.beyond = free_port()

    def start(self, services: dict):
        port = self.ports.setdefault(SESSIONS, free_port())
        argv = ["mcp-server-everything", "streamableHttp"]
        self.processes.serve(SESSIONS, argv, port, {"PORT": str(port)})
        argv = [self.subjects.python, "-m", "http.server", str(self.beyond), "--bind", "127.0.0.1"]
        self.processes.serve("beyond", argv, self.beyond)
        return super().start({**services, SESSIONS: {"url": self.url(SESSIONS)}})

    def __enter__(self) -> Bed:
        super().__enter__()
        try:
            self.fill()
        except BaseException:
            self.processes.__exit__()
            raise
        return self

    def fill(self) -> None:
        times = {"session_idle": SHORT, "resume": SHORT}
        self.kept = self.member(
            "sidecar", "kept", self.sidecar_settings(SESSIONS, self.url(SESSIONS), timeouts={"session_idle": SHORT})
        )
        rule = {"name": "beyond", "hosts": ["localhost"], "ports": [self.beyond], "addresses": ["127.0.0.0/8", "::1"], "raw": True}
        egress = {"listen": "127.0.0.1:0", "rules": [rule]}
        self.out = self.member("sidecar", "out", self.sidecar_settings(HTTP, self.url(HTTP), egress=egress))
        self.policy = self.root / "policy.yaml"
        self.good = (self.state / "policy.yaml").read_text(encoding="utf-8")
        self.policy.write_text(self.good, encoding="utf-8")
        # A file of policies has bounds: that of many rules needs two.
        self.more_policy = self.root / "policy-more.yaml"
        self.more_policy.write_text(self.good.replace("name: ", "name: more-"), encoding="utf-8")
        at = lambda where: (where.rsplit(":", 1)[0], int(where.rsplit(":", 1)[1]))  # noqa: E731
        places = {STDIO: self.sidecar(STDIO), HTTP: self.sidecar(HTTP), SESSIONS: at(self.kept.mcp)}
        settings = self.ingress_settings(places, timeouts=times, policy=[str(self.policy), str(self.more_policy)])
        settings["services"][HTTP]["addresses"].append(self.out.mcp)
        self.front = self.member("ingress", "front", settings)
