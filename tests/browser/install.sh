#!/usr/bin/env bash
# Prints the path of a Chromium. Where there is none, Debian's smallest is installed when this runs as root on Debian.
set -euo pipefail

find_browser() {
  local name
  for name in "${CHROMIUM:-}" chromium-headless-shell chromium chromium-browser google-chrome; do
    [ -n "$name" ] && command -v "$name" && return
  done
  return 1
}

find_browser && exit
command="apt-get update && apt-get install -y --no-install-recommends chromium-headless-shell"
if [ "$(id -u)" != 0 ] || [ ! -f /etc/debian_version ]; then
  echo "browser: this stage needs Chromium (or CHROMIUM=/path/to/one). On Debian: sudo sh -c '$command'" >&2
  exit 1
fi
echo "browser: installing chromium-headless-shell" >&2
sh -c "$command" >/dev/null || { echo "browser: that failed; try: $command" >&2; exit 1; }
find_browser
