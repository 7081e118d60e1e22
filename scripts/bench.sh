#!/bin/sh
# Benchmarks: Go benchmarks, each for the given time (default 100ms), with the ratio
# of its variants to the first one, then the takeover of many sessions in the lab.
# Only ratios within one run mean anything; figures depend on the machine.
#
#   bench.sh [TIME [PACKAGE...]]
set -eu
cd "$(dirname "$0")/.."
go=${GO:-go}
mkdir -p out
"$go" build -o out/summary ./tests/summary
out/summary bench "$@"
[ -x bin/shadowlab ] || CGO_ENABLED=0 "$go" build -trimpath -o bin/ ./cmd/...
if bin/shadowlab bench --help > /dev/null 2>&1; then
	printf '\n== takeover in the lab\n'
	bin/shadowlab bench
fi
