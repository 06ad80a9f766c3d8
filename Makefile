# Targets for people. `make help` lists them.

export GOTOOLCHAIN := local
export GOEXPERIMENT := simd
export CGO_ENABLED := 0

GO ?= go
FUZZTIME ?= 5000x
BENCHTIME ?= 2s
CHAOS ?= 5m
SOAK ?= 30m
HOSTILE_TASKS ?= 2000
SIMRUNS ?= 1000000
VALIDATORS ?= 4
GOLANGCI := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.13.2
LDFLAGS := -s -w

.DEFAULT_GOAL := help
.PHONY: help build demo test vet lint unit race fuzz e2e netns netns-short hostile hostile-short chaos soak sim mutants cross bench bench-settle bench-sync bench-receipt bench-apply bench-votelog bench-gossip bench-scale example-size clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/poq
	$(GO) build -ldflags '$(LDFLAGS)' -o bin/poq ./cmd/poq

demo: build ## start a network, ask it three questions, verify its ledgers
	./bin/poq devnet \
		--ask "Who wrote Pride and Prejudice, and when was it published?" \
		--ask "$$(cat examples/passage.txt)" \
		--ask "$$(cat examples/summary.txt)"

test: vet lint unit race fuzz mutants e2e hostile-short netns-short cross ## everything that CI runs

vet: ## go vet, with and without SIMD
	$(GO) vet ./...
	GOEXPERIMENT= $(GO) build ./...

lint: ## golangci-lint
	$(GO) run $(GOLANGCI) run ./...

unit: ## unit tests, the protocol's virtual swarm among them
	$(GO) test $$($(GO) list ./... | grep -v /e2e)

# checkptr stops at a pointer past the end in GoMLX's matrix product, which no build without it minds.
race: ## the same under the race detector, shortened
	CGO_ENABLED=1 $(GO) test -race -short -gcflags=github.com/gomlx/compute/...=-d=checkptr=0 $$($(GO) list ./... | grep -v /e2e)

# A number of executions, not a time: go test -fuzz now and then fails when its time is up.
fuzz: ## every fuzz target, FUZZTIME executions or seconds each
	@set -e; for pkg in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
			echo "fuzz $$pkg $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x $$pkg; \
		done; \
	done

e2e: build ## the built binary, as a user runs it
	$(GO) test -count=1 ./e2e

netns: build ## several hosts with routers between them, in network namespaces; as root, or where user namespaces are allowed
	POQ_BIN=$(CURDIR)/bin/poq $(GO) test -count=1 -v -timeout 30m ./e2e/netns

netns-short: build ## the same, shortened
	POQ_BIN=$(CURDIR)/bin/poq $(GO) test -count=1 -short -v ./e2e/netns

chaos: build ## kill peers under load for CHAOS, with as many validators as VALIDATORS
	POQ_CHAOS=$(CHAOS) POQ_CHAOS_VALIDATORS=$(VALIDATORS) POQ_BIN=$(CURDIR)/bin/poq \
		$(GO) test -count=1 -timeout 0 -v -run 'TestKilledPeers' ./e2e

hostile: ## ten hostile peers against a network that settles, for HOSTILE_TASKS tasks: what it costs, and who is kept out
	POQ_HOSTILE_TASKS=$(HOSTILE_TASKS) $(GO) test -count=1 -timeout 0 -v ./e2e/hostile

hostile-short: ## the same, shortened
	$(GO) test -count=1 -short -v ./e2e/hostile

soak: build ## run a network for SOAK, with tasks all the time and peers that come and go: nothing may grow
	POQ_SOAK=$(SOAK) POQ_BIN=$(CURDIR)/bin/poq $(GO) test -count=1 -timeout 0 -v -run 'TestPeersTakeNoMore' ./e2e

sim: build ## simulate SIMRUNS runs of the settlement with faults and adversaries
	./bin/poq sim --runs $(SIMRUNS)

mutants: ## break the core on purpose: the simulator must notice every time
	$(GO) run ./ledger/sim/mutation

cross: ## build for other systems
	GOOS=linux GOARCH=arm64 $(GO) build -o /dev/null ./cmd/poq
	GOOS=darwin GOARCH=arm64 $(GO) build -o /dev/null ./cmd/poq
	GOOS=windows GOARCH=amd64 $(GO) build -o /dev/null ./cmd/poq

bench: ## benchmarks of judge, language model, ledger and gossip
	$(GO) test -run '^$$' -bench . -benchtime $(BENCHTIME) -benchmem ./...

bench-sync: build ## time how a fresh peer catches up with 100,000 settlements
	./bin/poq bench sync

bench-settle: build ## time the agreement alone
	./bin/poq bench settle

bench-apply: build ## time how fast a ledger takes settlements
	./bin/poq bench apply

bench-votelog: build ## count durable votes, beside Badger
	./bin/poq bench votelog

bench-receipt: build ## size receipts and time their verification
	./bin/poq bench receipt

bench-gossip: build ## tell what gossip costs among 50 peers, beside bare gossipsub
	./bin/poq bench gossip

example-size: ## size the smallest program that embeds a node, and count what it brings along
	$(GO) build -ldflags '$(LDFLAGS)' -o bin/example-ask ./examples/ask
	@printf 'binary: %d bytes\n' $$(wc -c < bin/example-ask)
	@$(GO) list -deps -f '{{if not .Standard}}{{.ImportPath}} {{.Module.Path}}{{end}}' ./examples/ask | \
		awk '{m[$$2]} END {printf "outside of the standard library: %d packages of %d modules\n", NR, length(m)}'

bench-scale: ## gossip and whole nodes among 50 and 100 peers on simulated links, in virtual time
	POQ_SCALE=1 $(GO) test -count=1 -timeout 30m -v ./node/scale

clean: ## remove what was built
	rm -rf bin
