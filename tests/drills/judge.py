"""The common rules: what every drill is judged by, whatever was broken."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import census
from load import Load
from world import HTTP, STDIO, Member, Stranger, World, metrics, total, wait_for

MEGABYTE = 1024 * 1024
# Rule 5 says 10 %; of a process that holds 20 descriptors and 10 MiB that is less than noise.
SPARE_DESCRIPTORS, SPARE_BYTES = 8, 8 * MEGABYTE
# Idle connections and sessions of servers go within seconds, freed memory when a process has been idle for a while.
SETTLE = 30.0
COUNTERS = ("outrigger_bad_requests_total", "outrigger_denied_total", "outrigger_limited_total")


@dataclass
class Verdict:
    """What a drill found. `wrong` is empty when it passed."""

    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def expect(self, good: object, text: str) -> bool:
        if not good:
            self.wrong.append(text)
        return bool(good)

    def note(self, text: str) -> None:
        self.notes.append(text)


class Judge:
    """Takes stock before the fault, and compares afterwards. `mortal` are parts that the drill may kill, `front` is the
    ingress under load when it is not the one of `up`."""

    def __init__(
        self,
        world: World,
        verdict: Verdict,
        mortal: tuple[str, ...] = (),
        members: tuple[Member, ...] = (),
        front: Member | None = None,
    ):
        self.world, self.verdict, self.mortal = world, verdict, mortal
        self.members, self.front = members, front
        self.before = self.holdings()
        self.counted = None if "ingress" in mortal else self.refusals()

    def holdings(self) -> dict[str, census.Holding]:
        pids = {name: self.world.part(name) for name in ("ingress", STDIO, HTTP)}
        pids |= {member.name: member.pid for member in self.members}
        return {name: held for name, pid in pids.items() if (held := census.holding(pid))}

    def refusals(self) -> float:
        """Everything that the ingress counted as not gone well."""
        series = metrics(self.front.admin if self.front else self.world.admin("ingress"))
        lost = total(series, "outrigger_requests_total", without='outcome="ok"')
        return lost + sum(total(series, name) for name in COUNTERS)

    def judge(self, load: Load, stranger: Stranger) -> None:
        verdict = self.verdict
        verdict.note(f"{len(load.outcomes)} calls: {load.kinds()}; longest gap {load.gap():.1f} s")
        # 2 and 3.
        for fault in load.faults[:5]:
            verdict.wrong.append(fault)
        # 4.
        verdict.expect(stranger.tries, "no stranger tried anything")
        verdict.expect(not stranger.let_in, f"strangers were let in: {sorted(set(stranger.let_in))}")
        # 6, as far as the ingress still has its counters.
        answered = sum(o.answered and not o.ok for o in load.outcomes)
        if self.counted is not None:
            counted = self.refusals() - self.counted
            verdict.expect(counted >= answered, f"{answered} calls failed and {counted:.0f} were counted")
        self.compare()

    def compare(self) -> None:
        # 1.
        now = self.holdings()
        for name, held in self.before.items():
            if name not in now:
                self.verdict.wrong.append(f"{name} is gone")
            elif name not in self.mortal and now[name].pid != held.pid:
                self.verdict.wrong.append(f"{name} died and was started again")
        # 5.
        self.verdict.expect(not census.zombies(self.world.up.pid), "there are zombies")
        wait_for(lambda: not self.excess(), SETTLE, 0.5)
        for text in self.excess():
            self.verdict.wrong.append(text)

    def excess(self) -> list[str]:
        found, now = [], self.holdings()
        for name, held in self.before.items():
            if name not in now:
                continue
            if now[name].descriptors > held.descriptors * 1.1 + SPARE_DESCRIPTORS:
                found.append(f"{name} holds {now[name].descriptors} descriptors; it was {held.descriptors}")
            if now[name].rss > held.rss * 1.1 + SPARE_BYTES:
                was, is_now = held.rss / MEGABYTE, now[name].rss / MEGABYTE
                found.append(f"{name} holds {is_now:.1f} MiB; it was {was:.1f}")
        return found


def settle(load: Load, seconds: float) -> None:
    """Lets the load run."""
    load.ending.wait(seconds)


def now() -> float:
    return time.monotonic()
