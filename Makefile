# shadowcast: every target runs from a clean checkout on Debian 12 with Go.
GO      ?= go
SUDO    := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
BIN     := bin
OUT     := out
FUZZ    ?= 10s
SEEDS   ?= 10000
FROM    ?= 1
TESTFLAGS ?=
# One kind of build for everything; only the race detector needs C.
export CGO_ENABLED ?= 0
export GOFLAGS     ?= -trimpath

VERSION ?=

.PHONY: deps build deb generate test unit race lab lint lint-proto fuzz sim sim-mutants bench bench-collect bench-hwhealth demo campaign lab-routers lab-more lab-partitions lab-upgrade lab-install lab-strongswan-6 shadowcastd-previous clean

deps: ## install what Debian must provide, leaving no service running
	$(SUDO) sh scripts/deps.sh

build: ## compile the three programs into bin/
	$(GO) build -o $(BIN)/ ./cmd/...

deb: ## a Debian package in out/deb (VERSION=1.2.3; default: what git describes)
	@sh scripts/deb.sh $(VERSION)

generate: ## rebuild protobuf code and eBPF objects (needs clang, protoc)
	$(GO) generate ./...

test: ## everything: unit tests with the race detector, lab scenarios, a count of skips
	@sh scripts/test.sh

race: ## unit tests with the race detector
	@sh scripts/test.sh unit

lab: build ## all lab scenarios
	@sh scripts/test.sh lab

lint: ## gofmt, vet, staticcheck
	@fmt=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$fmt" ] || { echo "gofmt: $$fmt"; exit 1; }
	$(GO) vet ./...
	$(GO) tool staticcheck ./...

# Pinned; too large a tree of dependencies to be a tool of this module.
BUF ?= $(GO) run github.com/bufbuild/buf/cmd/buf@v1.50.0
lint-proto: ## the .proto files by buf's rules (buf.yaml); compiles buf the first time
	$(BUF) lint

sim: ## SEEDS runs of the simulator from seed FROM
	$(GO) run ./tests/sim -from $(FROM) -runs $(SEEDS)

sim-mutants: ## broken cores, each of which the simulator must catch
	$(GO) run ./tests/sim -mutants

fuzz: ## every fuzz target for FUZZ (default 10s) each
	@sh scripts/fuzz.sh $(FUZZ)

bench: build ## benchmarks; ratios within one run, never absolute limits
	@sh scripts/bench.sh

DATA ?= ../shared/hwhealth/data
bench-hwhealth: build ## the failure predictor over recorded drives in DATA, scored beside published baselines
	$(BIN)/shadowctl hwhealth bench $(DATA) --out $(OUT)/hwhealth

bench-collect: ## processor time of all health collectors at their default intervals
	$(GO) test -run '^$$' -bench Collectors -benchtime 1x -v ./hwhealth/collect

demo: deps build ## a fleet in a box: planned handover and power cut, live
	$(BIN)/shadowlab demo

campaign: build ## drains, power cuts, false alarms and aborts by the dozen; about an hour, each prints its table
	$(BIN)/shadowlab run 'campaign-*'
	$(GO) run ./tests/summary cuts $(OUT)/lab/campaign-cuts-[1-5]/result.json

lab-routers: build ## the fleet with BIRD and with FRR, IPv4 and IPv6 VIP; order of the withdraw; sessions under repeated cuts; names
	$(BIN)/shadowlab run 'routers-*' 'withdraw-*' dns-follow

shadowcastd-previous: ## a daemon that speaks the replication protocol before, to upgrade from
	$(GO) build -tags previous_protocol -ldflags "-X main.version=previous" -o $(BIN)/shadowcastd-previous ./cmd/shadowcastd

lab-upgrade: build shadowcastd-previous ## the upgrade of docs/operations.md between two versions under traffic, and the way back
	$(BIN)/shadowlab run upgrade rollback

lab-install: build deb ## docs/install.md as it stands, with the package on three machines: preflight's findings and fixes, a client, a move; then a strongSwan gateway that becomes a fleet (docs/operations.md)
	$(BIN)/shadowlab run install migrate

lab-more: build ## repairs by the audit, lifetimes across a takeover, strangers refused, the unit's capabilities, tiers, sites, one session a client, shadow sets, the CA replaced, every alert
	$(BIN)/shadowlab run 'audit-*' refusals unit-capabilities tiers site-to-site site-loss split-path ends unique shadow-set redirect ca-rotation alerts

lab-strongswan-6: build ## gateways of strongSwan 5.9 and 6 in one fleet; makes a Debian 13 root for the latter (debootstrap)
	sh scripts/strongswan6.sh
	$(BIN)/shadowlab run strongswan-6

lab-partitions: build ## a fleet that falls apart and comes together: partitions, claimants, ex-owners, restarts, a cold start, uneven paths
	$(BIN)/shadowlab run 'partition-*' claimants ex-owner cold-start daemon-restart home-return registrars-leader takeover-loaded move-uneven-path

clean: ## remove build results and lab output
	rm -rf $(BIN) $(OUT)
