#!/bin/sh
# Runs the tests and counts them. The last line is "N passed, N failed, N skipped";
# the exit status is 0 when nothing failed.
#
#   test.sh                      everything: unit, a short fuzz run, lab
#   test.sh unit [PACKAGE...]    unit tests, with the race detector
#   test.sh lab [SCENARIO...]    lab scenarios, natively or in user-mode Linux
#   test.sh fuzz [TIME [PACKAGE...]]  fuzz targets, each for TIME (default 3s)
#
# GO, TESTFLAGS and FUZZ are explained by `go run ./tests/summary help`.
set -eu
cd "$(dirname "$0")/.."
go=${GO:-go}
# One kind of build for everything, as in the Makefile.
export CGO_ENABLED="${CGO_ENABLED:-0}" GOFLAGS="${GOFLAGS:--trimpath}"
case ${1:-all} in
all | lab) "$go" build -o bin/ ./cmd/... ;;
esac
mkdir -p out
"$go" build -o out/summary ./tests/summary
exec out/summary "$@"
