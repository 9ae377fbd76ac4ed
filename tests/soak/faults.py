"""What breaks while the mesh is soaked, one thing after the other."""

from __future__ import annotations

import random
import signal
from collections import Counter

from bed import SESSIONS, Bed
from certificates import replace
from threads import Threads
from world import HTTP, STDIO, NotReady, kill

# Between two faults, in seconds.
EVERY = 12
POLICY_EVERY = 2


class Faults(Threads):
    """Runs between `with` and its end."""

    def __init__(self, bed: Bed):
        super().__init__(self.break_things, self.reload, patience=120)
        self.bed = bed
        self.done = Counter()

    def break_things(self) -> None:
        order = random.Random(7)
        faults = [self.child, self.server, self.stdio_sidecar, self.http_sidecar, self.sessions_sidecar]
        while not self.ending.wait(EVERY):
            fault = order.choice(faults)
            try:
                fault()
                self.done[fault.__name__] += 1
            except NotReady:
                # It is being started again from the last time.
                self.done["not there"] += 1

    def child(self) -> None:
        for pid in self.bed.stdio_children():
            kill(pid)

    def server(self) -> None:
        server = self.bed.servers[HTTP]
        kill(server.pid)
        server.wait()
        self.bed.serve(HTTP)

    def stdio_sidecar(self) -> None:
        kill(self.bed.part(STDIO), signal.SIGTERM)

    def http_sidecar(self) -> None:
        kill(self.bed.part(HTTP))

    def sessions_sidecar(self) -> None:
        kill(self.bed.part(SESSIONS))

    def reload(self) -> None:
        count = 0
        while not self.ending.wait(POLICY_EVERY):
            count += 1
            replace(self.bed.policy, f"# change {count}\n{self.bed.good}".encode())
            self.done["policy"] += 1
