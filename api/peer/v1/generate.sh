#!/bin/sh
# Regenerates peer.pb.go and peer_grpc.pb.go. Needs protoc; the plugins are the
# module's own tools.
set -eu
bin=$(mktemp -d)
trap 'rm -r "$bin"' EXIT
go build -o "$bin" google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc
PATH="$bin:$PATH" protoc --go_out=. --go_opt=paths=source_relative \
	--go-grpc_out=. --go-grpc_opt=paths=source_relative *.proto
