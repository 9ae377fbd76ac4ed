#!/usr/bin/env bash
# Runs every fuzz target for SECONDS on the nightly toolchain, from the committed corpus. What is found on the way stays
# under target/fuzz and helps the next run.
set -euo pipefail
seconds="${1:-60}"
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
work="$here/../../target/fuzz"
rustup toolchain list | grep -q ^nightly || { echo "fuzzing needs: rustup toolchain install nightly" >&2; exit 1; }
mkdir -p "$work"
work="$(cd "$work" && pwd)"

failed=()
for source in "$here"/fuzz_targets/*.rs; do
  target="$(basename "$source" .rs)"
  mkdir -p "$work/corpus/$target" "$work/artifacts/$target"
  echo "==> $target, $seconds s"
  # libFuzzer writes to the first folder and only reads the second.
  cargo +nightly fuzz run --fuzz-dir "$here" --target-dir "$work/build" "$target" \
    "$work/corpus/$target" "$here/corpus/$target" -- \
    -max_total_time="$seconds" -artifact_prefix="$work/artifacts/$target/" -timeout=10 -rss_limit_mb=2048 \
    -print_final_stats=1 >"$work/$target.log" 2>&1 || failed+=("$target")
  grep -E '^stat::number_of_executed_units|panicked at|^==[0-9]+==ERROR|^error' "$work/$target.log" | head -5 || true
done
if [ "${#failed[@]}" -gt 0 ]; then
  echo "failed: ${failed[*]}; logs and inputs are in $work" >&2
  exit 1
fi
echo "every target ran clean"
