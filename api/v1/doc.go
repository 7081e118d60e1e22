// Package v1 is the operator API, shadowcast.v1: what an operator's tools ask of
// one appliance.
//
// It owns the messages and the service; the Go code is generated from the .proto
// files beside it (`go generate ./api/v1`, needs protoc) and committed. It holds
// no logic. Package operator serves it on a local socket, cmd/shadowctl calls
// it. Compatible changes only: fields are added, never renumbered or reused.
package v1

//go:generate sh -c "cd ../.. && exec protoc -I . --plugin=protoc-gen-go=$(go tool -n protoc-gen-go) --plugin=protoc-gen-go-grpc=$(go tool -n protoc-gen-go-grpc) --go_out=. --go_opt=paths=source_relative --go-grpc_out=. --go-grpc_opt=paths=source_relative api/v1/*.proto"
