#!/usr/bin/env bash
# Runs the public MCP conformance suite, as installed by `make subjects`.
#   run.sh URL SPEC_VERSION [--scenario NAME]... [--suite all|active|pending] [--required]
#          [--expected-failures FILE] [--out DIR] [--list]
#   run.sh --client "COMMAND" SPEC_VERSION [same options]      client scenarios; the suite appends a server URL
# SPEC_VERSION: 2025-03-26 | 2025-06-18 | 2025-11-25 | 2026-07-28
# --required runs the frozen requirement set of 2025-11-25 or 2026-07-28; the suite's own verdict is then the exit code.
# Last line of output: "N passed, M failed" (checks). Exit 0 iff M = 0.
set -uo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
subjects="${OUTRIGGER_SUBJECTS:-$here/../../target/subjects}"
usage() { sed -n '2,9p' "${BASH_SOURCE[0]}" >&2; exit 2; }

mode=server target="" spec="" suite=all required=0 out="" expected="" list=0 scenarios=()
while [ $# -gt 0 ]; do
  case "$1" in
    --client) mode=client; target="${2:?}"; shift 2 ;;
    --scenario) scenarios+=("${2:?}"); shift 2 ;;
    --suite) suite="${2:?}"; shift 2 ;;
    --required) required=1; shift ;;
    --expected-failures) expected="$(realpath "${2:?}")"; shift 2 ;;
    --out) out="${2:?}"; shift 2 ;;
    --list) list=1; shift ;;
    -h|--help) usage ;;
    -*) echo "unknown option $1" >&2; usage ;;
    *) if [ -z "$target" ]; then target="$1"; elif [ -z "$spec" ]; then spec="$1"; else usage; fi; shift ;;
  esac
done
[ -n "$target" ] && [ -n "$spec" ] || usage

suite_js="$subjects/npm/node_modules/@modelcontextprotocol/conformance/dist/index.js"
node="$subjects/npm/node_modules/.bin/node"
[ -x "$node" ] || node=node
if [ ! -f "$suite_js" ]; then
  echo "the conformance suite is not installed in $subjects: run 'make subjects'" >&2
  echo "0 passed, 1 failed"
  exit 1
fi
suite_js="$(realpath "$suite_js")"

scratch=""
if [ -z "$out" ]; then
  scratch="$(mktemp -d)"
  trap 'rm -rf "$scratch"' EXIT
  out="$scratch"
fi
mkdir -p "$out"
out="$(realpath "$out")"

args=()
if [ "$required" = 1 ]; then args+=(--requirements "$spec"); else args+=(--spec-version "$spec"); fi
[ -n "$expected" ] && args+=(--expected-failures "$expected")
if [ "$list" = 1 ]; then exec "$node" "$suite_js" list "${args[@]}"; fi
if [ "$mode" = server ]; then base=(server --url "$target"); else base=(client --command "$target"); fi

rc=0
# The suite writes more files beside its working directory than its results.
cd "$out" || exit 2
run_one() { "$node" "$suite_js" "${base[@]}" "${args[@]}" "$@" -o "$out" || rc=$?; }
if [ "${#scenarios[@]}" -gt 0 ]; then
  for scenario in "${scenarios[@]}"; do run_one --scenario "$scenario"; done
elif [ "$required" = 1 ]; then
  run_one
else
  run_one --suite "$suite"
fi

"$node" "$here/summary.mjs" --results "$out" --status "$rc" $([ "$required" = 1 ] || [ -n "$expected" ] && echo --trust-status)
