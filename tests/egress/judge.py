"""Whether a case went as it must, by what arrived outside, not by what the proxy said of itself."""

from __future__ import annotations

import re

ALLOWED = {"20.20.20.10", "20.20.20.11", "20.20.20.12"}
OWN_NAMES = re.compile(r"(allowed\.test|.*\.wild\.test|xn--bcher-kva\.test)\.?(:\d+)?$", re.IGNORECASE)
RULED_NAMES = re.compile(r"(allowed\.test|.+\.wild\.test|xn--bcher-kva\.test)$")


class Seen:
    """What arrived because of one case."""

    def __init__(self, hits: list[dict], mark: str):
        self.dialled = [(hit["tcp"], hit["port"]) for hit in hits if "tcp" in hit]
        self.hellos = [hit for hit in hits if "tls" in hit]
        self.heads = [hit["head"] for hit in hits if "request" in hit]
        self.requests = [hit for hit in hits if "request" in hit and mark in hit["head"]]
        self.datagrams = [hit for hit in hits if mark in hit.get("said", "")]

    @property
    def strayed(self) -> bool:
        return any(address not in ALLOWED for address, _ in self.dialled)

    def __str__(self) -> str:
        reached = sorted({(hit["request"], hit["port"]) for hit in self.requests})
        return f"dialled {sorted(set(self.dialled))}, requests reached {reached}, datagrams {len(self.datagrams)}"


def fields(head: str, pattern: str) -> list[tuple[str, str]]:
    return re.findall(rf"(?im)^({pattern}):[ \t]*(.*?)\r?$", head)


def arrived(seen: Seen, case: dict, said: str) -> bool:
    answered = '"origin"' in said
    return bool(seen.requests) and answered and all(hit["request"] in ALLOWED for hit in seen.requests)


def nothing(seen: Seen, case: dict, said: str) -> bool:
    return not seen.dialled and not seen.requests and not seen.datagrams


def no_request(seen: Seen, case: dict, said: str) -> bool:
    forged = case.get("sni") not in (None, "allowed.test") and any(h["sni"] == (case["sni"] or None) for h in seen.hellos)
    return not seen.requests and not forged and not seen.strayed


def allowed_only(seen: Seen, case: dict, said: str) -> bool:
    hosts = [host for hit in seen.requests for _, host in fields(hit["head"], "host")]
    ports = all(port in (80, 443) for _, port in seen.dialled)
    return not seen.strayed and ports and all(OWN_NAMES.match(host) for host in hosts if host.isascii())


def host_of_target(seen: Seen, case: dict, said: str) -> bool:
    hosts = [[host for _, host in fields(hit["head"], "host")] for hit in seen.requests]
    return not seen.strayed and all(host in (["allowed.test"], ["allowed.test:80"]) for host in hosts)


def unambiguous(seen: Seen, case: dict, said: str) -> bool:
    for hit in seen.requests:
        lengths = fields(hit["head"], "content-length|transfer-encoding[ \\t]*")
        codings = {value.strip() for name, value in lengths if name.lower().startswith("transfer")}
        numbers = [value for name, value in lengths if name.lower() == "content-length"]
        if len(lengths) > 1 or codings not in (set(), {"chunked"}) or any(name != name.strip() for name, _ in lengths):
            return False
        if not all(number.strip().isdigit() for number in numbers):
            return False
    smuggled = any(head.startswith("GET") and "-smug" in head.split("\n")[0] for head in seen.heads)
    return not smuggled and not seen.strayed


def not_injected(seen: Seen, case: dict, said: str) -> bool:
    return not any(re.search(r"(?im)^x-inj:|[^\r]\n|\n[ \t]", hit["head"]) for hit in seen.requests)


def hop_by_hop_stays(seen: Seen, case: dict, said: str) -> bool:
    return not any(fields(hit["head"], "proxy-authorization|x-hop") for hit in seen.requests) and not seen.strayed


VERDICTS = {
    "allow": arrived,
    "either": lambda seen, case, said: not seen.strayed,
    "not_private": lambda seen, case, said: not seen.strayed,
    "deny": nothing,
    "deny_request": no_request,
    "deny_or_allowed_origin": allowed_only,
    "host_rewritten": host_of_target,
    "no_ambiguous": unambiguous,
    "no_inject": not_injected,
    "no_hop": hop_by_hop_stays,
}
