#!/bin/sh
# Benchmarks: Go benchmarks, each for the given time (default 100ms), with the ratio
# of its variants to the first one, then the takeover of many sessions in the lab.
# Only ratios within one run mean anything; figures depend on the machine.
#
#   bench.sh [TIME [PACKAGE...]]
set -eu
cd "$(dirname "$0")/.."
go=${GO:-go}
# One kind of build for everything, as in the Makefile.
export CGO_ENABLED="${CGO_ENABLED:-0}" GOFLAGS="${GOFLAGS:--trimpath}"
mkdir -p out
"$go" build -o out/summary ./tests/summary
out/summary bench "$@"
[ -x bin/shadowlab ] || "$go" build -o bin/ ./cmd/...
if bin/shadowlab bench --help > /dev/null 2>&1; then
	printf '\n== takeover in the lab\n'
	bin/shadowlab bench
fi
