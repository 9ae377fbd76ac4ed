#!/usr/bin/env bash
# Builds programs as they are released: guided by a profile of what they do most (docs/decisions/0036). Prints where they are.
#
#   ./release.sh                                   sidecar, ingress and the tool for people
#   ./release.sh outrigger-sidecar                 only this package
#
# `cargo build --release` makes the same programs without the profile; RUSTFLAGS and CARGO_TARGET_DIR mean what they mean there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
case "$PWD" in *[[:space:]]*) echo "release.sh: a path with a space cannot be told to rustc: $PWD" >&2; exit 1 ;; esac
[ $# -gt 0 ] || set -- outrigger-sidecar outrigger-ingress outrigger
# The profile knows functions by names that hold for a build with a named target and with the features of one package. Where a target is named,
# flags are also for the programs alone, and not for what runs during the build.
target="$(rustc -vV | sed -n 's/^host: //p')"
# `used.ld` says where functions lie, and prefixes of sections by the profile would hide them from it. That some functions changed since the
# profile was made is no news.
export RUSTFLAGS="${RUSTFLAGS:-} -C profile-use=$PWD/sidecar/guide.profdata -C llvm-args=-profile-guided-section-prefix=false -C llvm-args=-no-pgo-warn-mismatch"
for package in "$@"; do
  cargo build --locked --release --target "$target" --package "$package" >&2
done
echo "$(realpath "${CARGO_TARGET_DIR:-target}")/$target/release"
