#!/usr/bin/env bash
# Builds release binaries and the tools, then measures. Arguments go to bench.py; peers that are not installed are named
# with the command that installs them.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../.." && pwd)"
for tool in openssl taskset chrt pgrep; do
  command -v "$tool" >/dev/null || { echo "bench needs $tool: sudo apt-get install -y openssl util-linux procps" >&2; exit 1; }
done
cd "$root"
# Where Debian has servers, and others than root do not look.
export PATH="$PATH:/usr/sbin:/sbin"
programs="$(./release.sh outrigger-sidecar outrigger-ingress)"
cargo build --locked --release --manifest-path "$here/tools/Cargo.toml" --target-dir "$root/target/bench-tools"
PYTHONDONTWRITEBYTECODE=1 exec python3 "$here/bench.py" --bin "$programs" "$@"
