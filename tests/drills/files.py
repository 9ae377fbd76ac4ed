"""Drill 17: settings, policies and tokens that are broken, half written, empty, or changed all the time."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from certificates import replace
from judge import Judge, Verdict, now, settle
from load import Load
from processes import attempt
from servers import warm_up
from wire import call
from world import ECHOES, HTTP, STDIO, Member, Stranger, Subjects, World, metrics, total, wait_for

LOOK = 3
EMPTY = """apiVersion: mcpx.io/v1
kind: SecurityPolicy
metadata: { name: nothing }
spec: { authorization: { rules: [] } }
"""


def broken(binary: str, subjects: Subjects, root: Path, seconds: float, verdict: Verdict) -> None:
    with World(binary, subjects, root) as world:
        policy, tokens = root / "policy.yaml", root / "tokens.yaml"
        good = (world.state / "policy.yaml").read_text(encoding="utf-8")
        policy.write_text(good, encoding="utf-8")
        digest = hashlib.sha256(world.token.encode()).hexdigest()
        known = json.dumps({"tokens": [{"subject": "local", "sha256": digest, "scopes": ["read"]}]})
        tokens.write_text(known, encoding="utf-8")
        settings = world.ingress_settings(policy=[str(policy)], tokens_file=str(tokens))
        del settings["tokens"]
        ingress = world.member("ingress", "second", settings)
        endpoint = world.at(ingress)
        warm_up(world)
        judge = Judge(world, verdict, members=(ingress,), front=ingress)
        with Stranger(endpoint, world.sidecar(HTTP)) as stranger, Load(endpoint, ECHOES) as load:
            for path, kind, content in ((policy, "policy", good), (tokens, "tokens", known)):
                bad_files(ingress, verdict, load, path, kind, content)
            bad_files(ingress, verdict, load, root / "second.json", "services", json.dumps(settings))
            storm_of_changes(verdict, load, policy, good, seconds)
            verdict.expect(not load.errors(), f"calls failed though old settings were good: {load.kinds()}")
            services(verdict, world, endpoint, root / "second.json", settings)
        closes(world, verdict, endpoint, policy, EMPTY, good, "an empty list of rules")
        closes(world, verdict, endpoint, tokens, "tokens: []\n", known, "an empty list of tokens")
        judge.judge(load, stranger)


def bad_files(ingress: Member, verdict: Verdict, load: Load, path: Path, kind: str, good: str) -> None:
    """Garbage, half of the good file, and no file: the last good one stays, and a metric says so."""
    for what, content in (("garbage", "]: {"), ("half", good[: len(good) // 2]), ("nothing", None)):
        before = failed(ingress, kind)
        if content is None:
            path.unlink()
        else:
            path.write_text(content, encoding="utf-8")
        seen = wait_for(lambda: failed(ingress, kind) > before, 8, 0.2)
        verdict.expect(seen, f"{what} as {kind} is not counted as a failed reload")
        settle(load, 0.3)
    replace(path, good.encode())
    settle(load, LOOK)


def failed(ingress: Member, kind: str) -> float:
    labels = (f'what="{kind}"', 'outcome="failed"')
    return total(metrics(ingress.admin), "outrigger_reloads_total", *labels)


def storm_of_changes(verdict: Verdict, load: Load, policy: Path, good: str, seconds: float) -> None:
    count, end = 0, now() + seconds
    while now() < end:
        count += 1
        replace(policy, f"# change {count}\n{good}".encode())
        settle(load, 0.01)
    verdict.note(f"{count} changes of the policy in {seconds:.0f} s")


def services(verdict: Verdict, world: World, endpoint, config: Path, settings: dict) -> None:
    """A service leaves the settings and comes back, without a restart."""
    without = {**settings, "services": {HTTP: settings["services"][HTTP]}}
    answer = lambda name: attempt(endpoint, call(f"{name}__echo", {"message": "x"}))  # noqa: E731
    replace(config, json.dumps({"audit": "off", **without}).encode())
    gone = wait_for(lambda: answer(STDIO) != "ok", 8, 0.2)
    verdict.expect(gone, "a service that was taken out of the settings still answers")
    verdict.expect(answer(HTTP) == "ok", "the service that stayed does not answer")
    replace(config, json.dumps({"audit": "off", **settings}).encode())
    back = wait_for(lambda: answer(STDIO) == "ok", 10, 0.2)
    verdict.expect(back, "a service that was added to the settings does not answer")


def closes(world: World, verdict: Verdict, endpoint, path: Path, empty: str, good: str, what: str) -> None:
    """An empty file denies everything; it is not the same as none."""
    works = lambda: attempt(endpoint, call(ECHOES[0], {"message": "x"})) == "ok"  # noqa: E731
    verdict.expect(wait_for(works, 10, 0.2), f"calls do not work before {what}")
    replace(path, empty.encode())
    verdict.expect(wait_for(lambda: not works(), 8, 0.2), f"{what} lets calls through")
    replace(path, good.encode())
    verdict.expect(wait_for(works, 8, 0.2), f"calls do not work again after {what}")
