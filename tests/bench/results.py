"""The rows of a run on their way to results.json, and what is computed from them. Stdlib only."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from pathlib import Path

Row = dict
# What a run is: `about` (machine, versions, method) and `rows`, one for each figure of each peer in each pass.
Document = dict
Value = Callable[[Row], float | None]

# Of this program; a file with another number is of another one.
FORMAT = 1


class Results:
    """The rows of one run, written as they come."""

    def __init__(self, folder: Path):
        self.lines = folder / "results.jsonl"
        self.whole = folder / "results.json"
        # Measured by a program of its own (scale.py), and reported with the rest.
        self.scale = folder / "scale.json"

    @classmethod
    def begin(cls, folder: Path) -> Results:
        results = cls(folder)
        results.lines.unlink(missing_ok=True)
        return results

    def add(self, row: Row) -> None:
        with open(self.lines, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def end(self, about: dict) -> Document:
        """Puts the run together."""
        lines = self.lines.read_text(encoding="utf-8").splitlines() if self.lines.exists() else []
        rows = [json.loads(line) for line in lines] + scale_rows(self.scale)
        document = {"format": FORMAT, "about": about, "rows": rows}
        self.whole.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        return document


def scale_rows(file: Path) -> list[Row]:
    """Rows of the suite `scale`: `services` and `one_most_cpu_us` of a call; a list of them, or an object with `rows`."""
    if not file.exists():
        return []
    found = json.loads(file.read_text(encoding="utf-8"))
    rows = found["rows"] if isinstance(found, dict) else found
    return [row for row in rows if row.get("suite") == "scale"]


def load(file: Path) -> Document:
    document = json.loads(file.read_text(encoding="utf-8"))
    if document.get("format") != FORMAT:
        raise SystemExit(f"{file}: not results of this version of the benchmarks; measure anew, or use the older one")
    return document


def field(name: str, divisor: float = 1.0) -> Value:
    return lambda row: None if row.get(name) is None else row[name] / divisor


def of(rows: list[Row], suite: str, peer: str) -> list[Row]:
    return [row for row in rows if (row["suite"], row["peer"]) == (suite, peer)]


def values(rows: list[Row], value: Value) -> list[float]:
    return [v for v in map(value, rows) if v is not None]


def spread(numbers: list[float], digits: int) -> str:
    """The median, and the range behind it where there is one."""
    if not numbers:
        return "-"
    middle = f"{statistics.median(numbers):,.{digits}f}"
    return middle if len(numbers) == 1 else f"{middle} ({min(numbers):,.{digits}f}-{max(numbers):,.{digits}f})"
