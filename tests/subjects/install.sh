#!/usr/bin/env bash
# Installs the programs that the tests run against into DIR (default target/subjects), exactly as the lockfiles say:
#   DIR/npm/node_modules/.bin   MCP servers and clients from npm, the conformance suite, node 22
#   DIR/venv/bin                MCP servers and the SDK from PyPI, python3
#   DIR/venv-v1/bin             python3 with the generation of that SDK before
# A second call with unchanged lockfiles returns at once. Nothing outside DIR is changed, except that missing Debian
# packages are installed when this runs as root on Debian.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
dir="${1:-$here/../../target/subjects}"
debian_packages=()

say() { echo "subjects: $*"; }
die() { echo "subjects: $*" >&2; exit 1; }

# Node only has to be able to run npm: the subjects themselves run on the pinned node 22 from the lockfile.
node_is_usable() {
  command -v node >/dev/null && command -v npm >/dev/null &&
    [ "$(node -p 'process.versions.node.split(".")[0]')" -ge "$1" ]
}
python_is_usable() {
  command -v python3 >/dev/null && python3 -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_missing_packages() {
  debian_packages=()
  # Network namespaces and the kernel's rules, for the tests of redirection.
  PATH="$PATH:/usr/sbin:/sbin" command -v nft >/dev/null || debian_packages+=(nftables)
  PATH="$PATH:/usr/sbin:/sbin" command -v iptables-restore >/dev/null || debian_packages+=(iptables)
  PATH="$PATH:/usr/sbin:/sbin" command -v ip >/dev/null || debian_packages+=(iproute2)
  command -v openssl >/dev/null || debian_packages+=(openssl)
  # For limits that ingresses share.
  command -v valkey-server >/dev/null || command -v redis-server >/dev/null || debian_packages+=(redis-server)
  node_is_usable 18 || debian_packages+=(nodejs npm)
  python_is_usable || debian_packages+=(python3 python3-venv)
}

find_missing_packages
if [ "${#debian_packages[@]}" -gt 0 ]; then
  command="apt-get update && apt-get install -y --no-install-recommends ${debian_packages[*]}"
  if [ "$(id -u)" = 0 ] && [ -f /etc/debian_version ]; then
    say "installing ${debian_packages[*]}"
    sh -c "$command"
    find_missing_packages
  fi
  [ "${#debian_packages[@]}" = 0 ] ||
    die "the tests need node >= 18 with npm, and python >= 3.11 with venv. On Debian: sudo sh -c '$command'"
fi

mkdir -p "$dir"
dir="$(cd "$dir" && pwd)"
lock="$(cat "$here"/package.json "$here"/package-lock.json "$here"/requirements*.lock "$0" | sha256sum)"
if [ "$(cat "$dir/installed" 2>/dev/null)" = "$lock" ]; then
  say "up to date in $dir"
  exit 0
fi
rm -rf "$dir/installed" "$dir/venv" "$dir/venv-v1"
# The shell may remember a python3 in there.
hash -r

say "npm packages -> $dir/npm"
mkdir -p "$dir/npm"
cp "$here"/package.json "$here"/package-lock.json "$here"/.npmrc "$dir/npm/"
(cd "$dir/npm" && npm ci --loglevel=error)
# The pinned node comes as an optional package for Linux; elsewhere the machine's own has to do.
[ -x "$dir/npm/node_modules/.bin/node" ] || node_is_usable 22 ||
  die "no pinned node for this platform: install node >= 22"

# install_python VENV LOCKFILE
install_python() {
  say "PyPI packages -> $1"
  python3 -m venv "$1"
  "$1/bin/pip" install --quiet --disable-pip-version-check --no-deps --requirement "$2"
  "$1/bin/pip" check
}
install_python "$dir/venv" "$here/requirements.lock"
install_python "$dir/venv-v1" "$here/requirements-v1.lock"

echo "$lock" > "$dir/installed"
say "installed"
