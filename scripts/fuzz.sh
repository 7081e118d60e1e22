#!/bin/sh
# Runs every fuzz target for the given time (default 10s) each.
set -eu
each=${1:-10s}
go list -f '{{$d := .ImportPath}}{{range .TestGoFiles}}{{$d}} {{.}}
{{end}}{{range .XTestGoFiles}}{{$d}} {{.}}
{{end}}' ./... | while read -r pkg file; do
	[ -n "$file" ] || continue
	dir=$(go list -f '{{.Dir}}' "$pkg")
	sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$dir/$file" | while read -r f; do
		echo "fuzz $pkg $f $each"
		go test -run '^$' -fuzz "^$f\$" -fuzztime "$each" "$pkg" < /dev/null | tail -3
	done
done
