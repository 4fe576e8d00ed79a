# headgate: every target is one line of help away (make help).
SHELL      := /bin/bash
GO         ?= go
CLANG      ?= clang-19
BIN        := bin/headgate
GOFLAGS_B  := -trimpath -ldflags=-s
SUDO       := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
T          ?= 30s

.PHONY: all help build generate generate-check deps test test-unit test-privileged test-clients test-pgx test-vm lint fmt fuzz bench bench-strict bench-parts demo clean

all: build ## build the binary

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/headgate: static, needs nothing but Go
	CGO_ENABLED=0 $(GO) build $(GOFLAGS_B) -o $(BIN) ./cmd/headgate

generate: ## compile bpf/ with $(CLANG) and write its Go
	scripts/generate.sh $(CLANG)

generate-check: ## regenerate from scratch and compare with what is committed
	scripts/generate.sh --check $(CLANG)

deps: ## install what the tests need (Debian packages)
	scripts/test-deps.sh

test: deps lint test-unit test-privileged test-pgx ## everything that can run on this machine; prints what was skipped

test-unit: ## unit tests with the race detector, no privileges used
	scripts/test.sh unit

test-privileged: build ## tests that need root: BPF, cgroups, a real PostgreSQL
	$(SUDO) env "PATH=$$PATH" scripts/test.sh privileged

test-clients: build ## of these, what compares psql, pg_dump, pgbench and drivers with and without the gate
	$(SUDO) env "PATH=$$PATH" scripts/test.sh clients

test-pgx: build ## pgx's own test suite, direct and through the gate: the same result (HEADGATE_SHORTCUTS=off: without shortcuts)
	$(SUDO) env "PATH=$$PATH" "HEADGATE_SHORTCUTS=$$HEADGATE_SHORTCUTS" scripts/pgx-suite.sh

test-vm: build ## what needs another kernel, systemd or the root of the cgroup tree, in emulated machines (an hour)
	$(SUDO) env "PATH=$$PATH" scripts/test-vm.sh

lint: ## gofmt, vet, golangci-lint, import rules
	scripts/lint.sh

fmt: ## format Go and C
	gofmt -w bpf cmd pkg

fuzz: ## every fuzz target for T (default 30s) each
	scripts/fuzz.sh $(T)

# What make bench takes: ONLY=P1,P2 (targets), ROUNDS=, TIME= (seconds each), IDLE= (sessions), CLIENTS=, DURABILITY=fsync,
# RECORDING=full, PIN=1 (all on one processor). A run with none of them writes docs/performance.md's figures and charts, others write dist/bench.
BENCH_FLAGS := $(if $(ONLY),-only "$(ONLY)") $(if $(ROUNDS),-rounds $(ROUNDS)) $(if $(TIME),-time $(TIME)) $(if $(IDLE),-idle $(IDLE)) \
  $(if $(CLIENTS),-clients $(CLIENTS)) $(if $(DURABILITY),-durability $(DURABILITY)) $(if $(RECORDING),-recording $(RECORDING)) $(if $(PIN),-pin)
BENCH_OUT   := $(if $(strip $(BENCH_FLAGS)),-json dist/bench/performance.json -svg dist/bench,-json docs/performance.json -svg docs/performance -page docs/performance.md)

bench: ## what the gate costs beside pgbouncer and haproxy (root; docs/performance.md; ONLY=P1,P2 for some)
bench-strict: ## the same with audit: fsync and recording: full
bench-strict: BENCH_FLAGS := -durability fsync -recording full
bench-strict: BENCH_OUT := -json docs/performance-strict.json -page docs/performance.md
bench bench-strict: build
	scripts/bench-deps.sh
	CGO_ENABLED=0 $(GO) build $(GOFLAGS_B) -o bin/headgate-bench ./pkg/internal/bench/headgate-bench
	$(SUDO) env "PATH=$$PATH" bin/headgate-bench -gate $(BIN) $(BENCH_FLAGS) $(BENCH_OUT)

bench-parts: ## the parts' own benchmarks, once each
	$(GO) test -run='^$$' -bench=. -benchtime=200ms ./pkg/...

demo: build ## the whole story in under a minute: no network, no database, leaves nothing behind
	$(SUDO) ./$(BIN) demo

clean: ## remove what was built
	rm -rf bin dist
