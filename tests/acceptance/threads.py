"""Threads beside a test. Stdlib only."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType


class Threads:
    """They run between `with` and its end, which `ending` tells them. `patience` is how long each may take to notice, in seconds."""

    def __init__(self, *acts: Callable[[], None], patience: float | None = None):
        self.ending = threading.Event()
        self.patience = patience
        self.threads = [threading.Thread(target=act, daemon=True) for act in acts]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.ending.set()
        for thread in self.threads:
            thread.join(self.patience)
