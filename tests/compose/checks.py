"""What was checked, and what the stages share."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from pathlib import Path

from images import ROOT
from project import Client, Project


class Checks:
    """Counts, and tells of each check."""

    def __init__(self, work: Path, subjects: Path):
        self.work, self.subjects = work, subjects
        self.passed = self.failed = 0
        self.lock = threading.Lock()

    def that(self, what: str, good: object, detail: object = "") -> None:
        with self.lock:
            self.passed, self.failed = self.passed + bool(good), self.failed + (not good)
        print(f"{'ok  ' if good else 'FAIL'} {what}" + (f": {detail}" if detail and not good else ""), flush=True)

    def project(self, name: str, *files: str, **environment: str) -> Project:
        return Project(self.work / "docker-compose", f"outrigger-ci-{name}-{os.getpid()}", list(files), **environment)

    def official_clients(self, client: Client) -> None:
        """The SDKs list and ping through the mesh."""
        acceptance = ROOT / "tests/acceptance"
        # ES modules find their packages next to the file that imports them.
        module = shutil.copy(acceptance / "mesh_client.mjs", self.subjects / "npm/mesh_client.mjs")
        programs = {
            "Python": [str(self.subjects / "venv/bin/python3"), str(acceptance / "mesh_client.py")],
            "TypeScript": [str(self.subjects / "npm/node_modules/.bin/node"), str(module)],
        }
        shared = {"MESH_INGRESS_URL": client.url, "MESH_TOKEN": client.token, "MESH_PROFILE": "generic", "OUTRIGGER_SUBJECTS": str(self.subjects)}
        for name, program in programs.items():
            for mode in ("2026-07-28", "legacy"):
                done = subprocess.run(program, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ | shared | {"MESH_MODE": mode})
                self.that(f"the official {name} client, {mode}, calls through", done.returncode == 0, done.stdout[-2000:])
