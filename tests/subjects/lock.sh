#!/usr/bin/env bash
# Resolves package.json and requirements*.in anew and rewrites package-lock.json and requirements*.lock.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT

cp "$here"/package.json "$here"/.npmrc "$scratch/"
(cd "$scratch" && npm install --package-lock-only --loglevel=error)
cp "$scratch/package-lock.json" "$here/package-lock.json"

for of in requirements requirements-v1; do
  python3 -m venv "$scratch/$of"
  "$scratch/$of/bin/pip" install --quiet --disable-pip-version-check --requirement "$here/$of.in"
  {
    echo "# Exact versions of everything in $of.in. Written by \`make subjects-lock\`; do not edit."
    "$scratch/$of/bin/pip" freeze
  } > "$here/$of.lock"
done
git -C "$here" --no-pager diff --stat -- .
