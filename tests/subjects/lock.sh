#!/usr/bin/env bash
# Resolves package.json and requirements.in anew and rewrites package-lock.json and requirements.lock.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT

cp "$here"/package.json "$here"/.npmrc "$scratch/"
(cd "$scratch" && npm install --package-lock-only --loglevel=error)
cp "$scratch/package-lock.json" "$here/package-lock.json"

python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$here/requirements.in"
{
  echo '# Exact versions of everything in requirements.in. Written by `make subjects-lock`; do not edit.'
  "$scratch/venv/bin/pip" freeze
} > "$here/requirements.lock"
git -C "$here" --no-pager diff --stat -- .
