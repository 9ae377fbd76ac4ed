#!/usr/bin/env bash
# Builds the three programs as the images have them, static, but of the profile of tests, into DIR. Only the last step, linking, differs
# from what the other stages build.
set -euo pipefail
dir="$1"
mkdir -p "$dir"
for name in outrigger-sidecar outrigger-ingress outrigger; do
  cargo rustc --locked --quiet --package "$name" --bin "$name" -- -C target-feature=+crt-static -C strip=symbols
  cp "${CARGO_TARGET_DIR:-target}/debug/$name" "$dir/$name"
done
