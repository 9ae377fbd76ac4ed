#!/usr/bin/env bash
# Prints where packages of the Debian release RELEASE come from: DEBIAN_MIRROR if it is set, else the first place of this machine's own
# sources that has the release, else Debian's.
set -euo pipefail
release="$1"
DEBIAN=http://deb.debian.org/debian

# Asked as apt asks: with its proxies and certificates.
has() {
  local file
  file="$(mktemp)"
  /usr/lib/apt/apt-helper -o Acquire::Retries=0 -o Acquire::http::Timeout=10 -o Acquire::https::Timeout=10 -o APT::Sandbox::User= \
    download-file "${1%/}/dists/$release/InRelease" "$file" >/dev/null 2>&1 && grep -q "^Codename: $release\$" "$file" && grep -q '^Origin: Debian$' "$file"
  local answer=$?
  rm -f "$file"
  return "$answer"
}

if [ -n "${DEBIAN_MIRROR:-}" ]; then
  echo "$DEBIAN_MIRROR"
  exit
fi
# One line for each place, of both forms of sources. Security updates alone are no release.
places="$(sed -n 's/^URIs: *//p; s/^deb  *\(\[[^]]*\] *\)\{0,1\}\(http[^ ]*\) .*/\2/p' \
  /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null | tr ' ' '\n' | grep -v security | awk '/^http/ && !seen[$0]++' || true)"
for place in $places; do
  if has "$place"; then
    echo "$place"
    exit
  fi
done
echo "$DEBIAN"
