#!/usr/bin/env python3
"""The compose files of compose/, as people use them, with real containers. Needs Docker; tests/compose/install.sh gets what is missing.

    run.py --work target/compose --subjects target/subjects [--only sidecars,quickstart,observed,shop,mishaps]

Images are made from programs that were built before (WORK/programs). Last line: `N passed, M failed`.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import images
import leftovers
import mishaps
import observed
import quickstart
import shop
import sidecars
from checks import Checks

# The longest first.
STAGES = {"sidecars": sidecars.run, "quickstart": quickstart.run, "observed": observed.run, "shop": shop.run, "mishaps": mishaps.run}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--subjects", type=Path, required=True)
    parser.add_argument("--only", default=",".join(STAGES))
    parser.add_argument("--keep-images", action="store_true", help="those of a run before")
    args = parser.parse_args()
    work, subjects = args.work.resolve(), args.subjects.resolve()
    for whose in leftovers.sweep():
        print(f"removed what is left of {whose}", flush=True)
    if not args.keep_images:
        make_images(work, subjects)
    checks = Checks(work, subjects)

    def go(name: str) -> None:
        begun = time.monotonic()
        try:
            STAGES[name](checks)
        except Exception as error:  # noqa: BLE001 - the other stages can still say something
            traceback.print_exc()
            checks.that(f"{name} went through", False, repr(error))
        print(f"---- {name}: {time.monotonic() - begun:.0f} s", flush=True)

    # Two at a time: mostly they wait for containers to start and to end.
    with ThreadPoolExecutor(2) as both:
        list(both.map(go, args.only.split(",")))
    print(f"{checks.passed} passed, {checks.failed} failed")
    return 1 if checks.failed else 0


def make_images(work: Path, subjects: Path) -> None:
    images.ours(work / "programs", work)
    for name, make, source in (("python", images.python, subjects / "venv"), ("node", images.node, subjects / "npm/node_modules")):
        # They are of what is installed, and as old as that.
        made = work / f"{name}.made"
        installed = (subjects / "installed").read_text()
        if not (made.exists() and made.read_text() == installed and images.docker("images", "--quiet", images.PREFIX + name)):
            make(source, work)
            made.write_text(installed)
    images.build(images.ROOT / "compose/time", "outrigger-example-time", "--build-arg", f"PYTHON_IMAGE={images.PREFIX}python")


if __name__ == "__main__":
    sys.exit(main())
