#!/usr/bin/env bash
# What the compose stage needs: a Docker daemon that runs, docker compose, promtool, and an image to build from. Into DIR (default
# target/compose), as far as it is not there:
#   DIR/docker-compose   compose v2
#   DIR/prometheus       prometheus and promtool
#   DIR/base.tar         a small Debian, imported as debian:bookworm-slim, which is the name that the Dockerfile has
# Debian packages are installed when this runs as root on Debian. What cannot be had ends it, with the command that would help.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
dir="${1:-$here/../../target/compose}"
mkdir -p "$dir"
dir="$(cd "$dir" && pwd)"
IMAGE=debian:bookworm-slim
export PATH="$PATH:/usr/sbin:/sbin"

say() { echo "compose: $*"; }
die() { echo "compose: $*" >&2; exit 1; }

need_packages() {
  local missing=()
  command -v docker >/dev/null && command -v dockerd >/dev/null || missing+=(docker.io iptables)
  command -v debootstrap >/dev/null || docker image inspect "$IMAGE" >/dev/null 2>&1 || [ -f "$dir/base.tar" ] || missing+=(debootstrap)
  [ "${#missing[@]}" = 0 ] && return
  local command="apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
  [ "$(id -u)" = 0 ] && [ -f /etc/debian_version ] || die "this stage runs containers. On Debian: sudo sh -c '$command'"
  say "installing ${missing[*]}"
  sh -c "$command" >/dev/null || die "that failed; try: $command"
}

need_daemon() {
  docker info >/dev/null 2>&1 && return
  say "starting dockerd, which stays: its log is $dir/dockerd.log"
  rm -f /var/run/docker.pid
  setsid dockerd >"$dir/dockerd.log" 2>&1 </dev/null &
  for _ in $(seq 60); do
    docker info >/dev/null 2>&1 && return
    sleep 1
  done
  tail -5 "$dir/dockerd.log" >&2
  die "dockerd does not start; as root: dockerd"
}

# Packages of a Debian release, unpacked into DIR/x and installed nowhere.
unpack() {
  local release="$1" own="$dir/apt-$1"
  shift
  mkdir -p "$own/lists/partial" "$own/cache/archives/partial" "$dir/x"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $("$here/../debian_mirror.sh" "$release") $release main" > "$own/sources.list"
  local options=(-o "Dir::Etc::SourceList=$own/sources.list" -o Dir::Etc::SourceParts=/dev/null -o "Dir::State::Lists=$own/lists"
    -o "Dir::Cache=$own/cache" -o APT::Sandbox::User=root -qq)
  apt-get "${options[@]}" update || die "no list of packages of Debian $release; try: apt-get update"
  (cd "$own" && apt-get "${options[@]}" download "$@") || die "cannot download $*"
  for file in "$own"/*.deb; do dpkg-deb -x "$file" "$dir/x"; done
  rm -rf "$own"
}

need_compose() {
  [ -x "$dir/docker-compose" ] && return
  if docker compose version >/dev/null 2>&1; then
    printf '#!/bin/sh\nexec docker compose "$@"\n' > "$dir/docker-compose"
  else
    say "docker compose 2 of Debian 13"
    unpack trixie docker-compose
    cp "$dir/x/usr/libexec/docker/cli-plugins/docker-compose" "$dir/docker-compose"
  fi
  chmod +x "$dir/docker-compose"
}

need_prometheus() {
  [ -x "$dir/promtool" ] && return
  say "prometheus of Debian 12"
  unpack bookworm prometheus
  cp "$dir/x/usr/bin/prometheus" "$dir/x/usr/bin/promtool" "$dir/"
}

need_image() {
  docker image inspect "$IMAGE" >/dev/null 2>&1 && return
  if [ ! -f "$dir/base.tar" ]; then
    say "debootstrap of Debian 12, two minutes, kept in $dir/base.tar"
    local root="$dir/root"
    rm -rf "$root"
    debootstrap --variant=minbase --include=nftables,ca-certificates bookworm "$root" "$("$here/../debian_mirror.sh" bookworm)" \
      >"$dir/debootstrap.log" 2>&1 ||
      die "debootstrap failed, see $dir/debootstrap.log; try: debootstrap --variant=minbase bookworm $root"
    rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/doc "$root"/usr/share/locale "$root"/usr/share/man
    # Under its name when it is whole: what is there is believed.
    tar -C "$root" -cf "$dir/base.tar.tmp" .
    mv "$dir/base.tar.tmp" "$dir/base.tar"
    rm -rf "$root"
  fi
  docker import -c 'CMD ["bash"]' "$dir/base.tar" "$IMAGE" >/dev/null
}

need_packages
need_daemon
need_compose
need_prometheus
need_image
rm -rf "$dir/x"
