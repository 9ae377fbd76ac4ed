#!/usr/bin/env bash
# Prints the path of a kubectl that can render kustomizations (1.27 or later): the one of this machine, or one from Debian 13
# that is unpacked under DIR (default target/kubernetes) and installed nowhere.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
dir="${1:-$here/../../target/kubernetes}"
suite=trixie

say() { echo "kubectl: $*" >&2; }

# `kubectl version` of old ones has another form: those are too old anyway.
usable() {
  "$1" version --client -o json 2>/dev/null |
    python3 -c 'import json, re, sys; v = json.load(sys.stdin)["clientVersion"]; sys.exit(int(re.match(r"\d+", v["minor"])[0]) < 27)' 2>/dev/null
}

for known in "$(command -v kubectl || true)" "$dir/kubectl/usr/bin/kubectl"; do
  if [ -n "$known" ] && usable "$known"; then
    echo "$known"
    exit 0
  fi
done

command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || {
  say "install kubectl 1.27 or later: https://kubernetes.io/docs/tasks/tools/"
  exit 1
}
say "fetching kubectl of Debian $suite"
apt="$dir/apt"
mkdir -p "$apt"/{lists/partial,cache/archives/partial,etc/preferences.d,etc/apt.conf.d} "$dir/kubectl"
: >"$apt/status"
echo "deb $("$here/../debian_mirror.sh" "$suite") $suite main" >"$apt/sources.list"
options=(-o "Dir::State::lists=$apt/lists" -o "Dir::Cache=$apt/cache" -o "Dir::State::status=$apt/status"
  -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::Etc::preferencesparts=$apt/etc/preferences.d"
  -o APT::Sandbox::User= -o APT::Get::List-Cleanup=0)
apt-get "${options[@]}" -q update >&2
(cd "$apt" && apt-get "${options[@]}" -q download kubectl >&2)
dpkg-deb -x "$apt"/kubectl_*.deb "$dir/kubectl"
usable "$dir/kubectl/usr/bin/kubectl" || { say "what Debian has does not work here"; exit 1; }
echo "$dir/kubectl/usr/bin/kubectl"
