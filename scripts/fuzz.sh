#!/bin/sh
# Runs every fuzz target for the given time (default 10s) each, and counts them.
set -eu
exec sh "$(dirname "$0")/test.sh" fuzz "${1:-10s}"
