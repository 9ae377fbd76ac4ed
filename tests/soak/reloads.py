"""A policy of many rules that is rewritten again and again: no call fails, none is decided wrongly, and what it costs those who
call meanwhile."""

from __future__ import annotations

import json
import time
from functools import partial

from bed import Bed
from certificates import replace
from threads import Threads
from wire import Connection, call
from world import HTTP, NotReady, metrics, total, wait_for

CALLERS = 2
# Between two calls of one caller.
PAUSE = 0.01
DEADLINE = 20
SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}


class Callers(Threads):
    """Call what is allowed under every version of the policy, and what is under none."""

    def __init__(self, bed: Bed):
        super().__init__(*(partial(self.run, who) for who in range(CALLERS)), patience=DEADLINE + 5)
        self.endpoint = bed.at(bed.front)
        self.took: list[float] = []
        self.wrong: list[str] = []

    def run(self, who: int) -> None:
        connection, count = Connection(self.endpoint, DEADLINE), 0
        while not self.ending.wait(PAUSE):
            count += 1
            text, began = f"{who}-{count}", time.monotonic()
            try:
                reply = connection.send(call(f"{HTTP}__echo", {"message": text}))
                self.took.append(time.monotonic() - began)
                if reply.kind != "ok" or text not in reply.text:
                    self.wrong.append(f"an allowed call: {reply.kind}")
                if count % 5 == 0 and connection.send(call(f"{HTTP}__sleep", {"seconds": 0})).kind == "ok":
                    self.wrong.append("a call that no rule allows was let through")
            except Exception as error:  # noqa: BLE001 - whatever it is, the call failed
                self.wrong.append(f"{type(error).__name__}: {error}")
        connection.close()

    def latency(self) -> dict[str, float]:
        """In milliseconds."""
        took = sorted(self.took)
        shares = {name: took[int((len(took) - 1) * share)] * 1000 for name, share in SHARES.items()}
        return {"calls": len(took), **shares, "max": took[-1] * 1000}


def policy(name: str, rules: int, version: int) -> str:
    """So many rules, one of which is about us; versions differ in all of them."""
    about_others = [
        {
            "name": f"{version}-{n}",
            "services": [f"s{n % 500}"],
            "capabilities": [f"t{n}", f"{version}*"],
            "requires": [{"role": f"r{n}"}],
        }
        for n in range(rules - 1)
    ]
    ours = {"name": f"echo-{version}", "services": [HTTP], "capabilities": ["echo"], "requires": [{"role": "admin"}]}
    spec = {"authorization": {"rules": [*about_others, ours]}}
    named = {"apiVersion": "mcpx.io/v1", "kind": "SecurityPolicy", "metadata": {"name": name}}
    return json.dumps({**named, "spec": spec}, separators=(",", ":"))


def rewrite(bed: Bed, rules: int, seconds: float) -> dict:
    """Latency under a policy that rests and under one that is rewritten whenever the last version is in force."""
    names = {bed.policy: "many", bed.more_policy: "more"}
    versions = [
        {path: policy(name, rules // 2, version).encode() for path, name in names.items()} for version in range(2)
    ]
    as_it_was = {path: path.read_bytes() for path in names}
    put(bed, versions[0])
    with Callers(bed) as callers:
        callers.ending.wait(seconds)
    still, wrong = callers.latency(), callers.wrong
    times, end = 0, time.monotonic() + seconds
    with Callers(bed) as callers:
        while time.monotonic() < end:
            times += 1
            put(bed, versions[times % 2])
    wrong += callers.wrong
    put(bed, as_it_was)
    return {"rules": rules, "reloads": times, "still": still, "rewritten": callers.latency(), "wrong": wrong[:10]}


def put(bed: Bed, files: dict) -> None:
    """Writes files, and waits until they are in force."""
    before = applied(bed)
    for path, content in files.items():
        replace(path, content)
    taken_up(bed, before)


def applied(bed: Bed) -> float:
    return total(metrics(bed.front.admin), "outrigger_reloads_total", 'what="policy"', 'outcome="applied"')


def taken_up(bed: Bed, before: float) -> None:
    if not wait_for(lambda: applied(bed) > before, 60, 0.1):
        raise NotReady("the ingress did not take up another policy within a minute")


def table(found: dict) -> str:
    columns = ["calls", *SHARES, "max"]
    header = [f"{found['rules']:,} rules, ms", *columns]
    lines = [header, ["---", *["---:"] * len(columns)]]
    for title, key in {"at rest": "still", f"rewritten {found['reloads']} times": "rewritten"}.items():
        lines.append([title, *(f"{found[key][name]:,.1f}" if name != "calls" else f"{found[key][name]:,}" for name in columns)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
