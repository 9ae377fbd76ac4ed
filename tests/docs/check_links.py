#!/usr/bin/env python3
"""Checks that every relative link in the Markdown files of the repository leads somewhere.

A link to a file must name a tracked file or folder; a link with a fragment must name a heading of that page.
External links are not opened: tests do not depend on other people's sites.
"""
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)|!\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
INLINE_CODE = re.compile(r"`[^`\n]*`")


def anchors(page: Path) -> set[str]:
    """The fragments that the headings of a page can be reached by (GitHub's rule, without its numbering of repeats)."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#{1,6}\s+(.+?)\s*#*$", text, re.MULTILINE)
    plain = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", h).replace("`", "").lower() for h in headings)
    return {re.sub(r"[^\w\- ]", "", h).strip().replace(" ", "-") for h in plain}


def broken_links(root: Path, page: Path) -> list[str]:
    text = INLINE_CODE.sub("", FENCE.sub("", page.read_text(encoding="utf-8")))
    problems = []
    for match in LINK.finditer(text):
        target = match.group(1) or match.group(2)
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        path, _, fragment = unquote(target).partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.is_relative_to(root) or not file.exists():
            problems.append(f"{page.relative_to(root)}: {target}: no such file")
        elif fragment and file.suffix == ".md" and fragment.lower() not in anchors(file):
            problems.append(f"{page.relative_to(root)}: {target}: no such heading")
    return problems


def main() -> int:
    root = Path(__file__).resolve().parents[2]
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=root, capture_output=True, text=True, check=True)
    pages = [root / name for name in listed.stdout.splitlines()]
    problems = [p for page in pages if page.exists() for p in broken_links(root, page)]
    print("\n".join(problems) if problems else f"{len(pages)} pages, every link leads somewhere")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
