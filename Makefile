# sluice: make help lists what there is to make.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

GO        ?= go
BENCHTIME ?= 800ms
BENCHFLAGS ?=
FUZZ      ?= .
FUZZTIME  ?= 60s
SOAKTIME  ?= 1h
SEED      ?= $(shell date -u +%y%m%d%H%M%S)
COUNT     ?= 100
WITHOUT   ?=
TESTFLAGS ?=

TOOL := $(GO) tool -modfile=tools.mod

# Debian packages, each with a program or file that it brings.
FOR_TEST     := gcc=gcc libc6-dev=/usr/include/stdlib.h python3=python3 iproute2=ip ethtool=ethtool socat=socat curl=curl vsftpd=vsftpd iputils-ping=ping traceroute=traceroute nftables=nft iperf3=iperf3
FOR_GENERATE := clang=clang llvm=llvm-strip libbpf-dev=/usr/include/bpf/bpf_helpers.h linux-libc-dev=/usr/include/linux/bpf.h
FOR_LINT     := shellcheck=shellcheck
FOR_BENCH    := dpdk-dev=dpdk-testpmd librte-net-af-xdp23=/usr/share/doc/librte-net-af-xdp23 nftables=nft ethtool=ethtool util-linux=unshare gcc=gcc libc6-dev=/usr/include/stdlib.h libxdp-dev=/usr/include/xdp/xsk.h libbpf-dev=/usr/include/bpf/libbpf.h
FOR_ORACLE   := user-mode-linux=linux.uml ipvsadm=ipvsadm iptables=iptables-legacy iproute2=ip python3=python3 gcc=gcc libc6-dev=/usr/include/stdlib.h

# Packages whose tests of frame ownership need the tag frameowner.
OWNERSHIP := ./rings/... ./workers/...

SCRIPTS := .ci/run .ci/need .ci/check-generate internal/oracle/guest/init.sh $(shell grep -rlE "^\#!.*sh$$" deploy)

# Lines "FOLDER FUNCTION" of the tests whose names match a pattern.
functions = { grep -rE --include='*_test.go' '^func $(1)' . || echo 'No test is named $(1)...' >&2; } | sed -E 's|^(.*)/[^/]*:func ([A-Za-z0-9_]*).*|\1 \2|' | sort -u

.PHONY: help
help: ## list the targets
	@echo 'Targets:'
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 18
	@echo
	@echo 'Variables: GO, TESTFLAGS, BENCHTIME, BENCHFLAGS, FUZZ (pattern), FUZZTIME, SOAKTIME, SEED, COUNT, WITHOUT'

.PHONY: go
go:
	@command -v $(GO) >/dev/null || { echo 'Go is missing (1.26 or later): https://go.dev/dl, or make GO=/path/to/go' >&2; exit 1; }

.PHONY: build
build: go ## build ./sluice (needs Go only)
	$(GO) build -o sluice ./cmd/sluice

.PHONY: demo
demo: build ## the main job: client, director on AF_XDP and web servers in namespaces; about 30 s
	@((EUID == 0)) || { echo 'make demo makes network namespaces: run it as root' >&2; exit 1; }
	./sluice demo

.PHONY: test
test: go ## every test, with the race detector; those that need namespaces skip without root
	@.ci/need 'make test' $(FOR_TEST)
	@((EUID == 0)) || echo 'Not root: tests that need network namespaces skip themselves.'
	$(GO) vet ./...
	$(GO) test -race -count=1 -tags frameowner -timeout 15m $(TESTFLAGS) $(OWNERSHIP)
	$(GO) test -race -count=1 -p 2 -timeout 30m $(TESTFLAGS) ./...

.PHONY: lint
lint: go ## format, vet, staticcheck, golangci-lint, shellcheck
	@.ci/need 'make lint' $(FOR_LINT)
	@unformatted=$$($(TOOL) gofumpt -l .); [[ -z $$unformatted ]] || { printf 'not formatted by gofumpt:\n%s\n' "$$unformatted" >&2; exit 1; }
	$(GO) vet ./...
	$(GO) vet -tags frameowner $(OWNERSHIP)
	$(TOOL) staticcheck ./...
	$(TOOL) golangci-lint run --allow-parallel-runners ./...
	shellcheck $(SCRIPTS)

.PHONY: format
format: go ## rewrite Go files as gofumpt wants them
	$(TOOL) gofumpt -w .

.PHONY: bench
bench: go ## sluice bench, in memory and on the wire; BENCHTIME=short: to see that it works
	@.ci/need 'make bench' $(FOR_BENCH)
	$(GO) build -o sluice ./cmd/sluice
	gcc -O3 -march=native -Wall -Wextra -o bench/peers/l2fwd bench/peers/l2fwd.c -lxdp -lbpf
	@case '$(BENCHTIME)' in \
	short|1x) ./sluice bench --short; echo 'Each small benchmark once:'; \
		$(GO) test -run '^$$' -bench . -benchtime 1x -short -p 1 -timeout 0 ./... ;; \
	*) ./sluice bench --time $(BENCHTIME) $(BENCHFLAGS) ;; esac

.PHONY: fuzz
fuzz: go ## each fuzz target (FUZZ, a pattern) for FUZZTIME
	@$(call functions,Fuzz) | grep -E '$(FUZZ)' | while read -r folder function; do \
		echo "$$folder $$function"; \
		$(GO) test -run '^$$' -fuzz "^$$function\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 10x "$$folder"; \
	done

.PHONY: soak
soak: go ## the long tests, TestSoak..., for SOAKTIME each
	@$(call functions,TestSoak) | while read -r folder function; do \
		echo "$$folder $$function for $(SOAKTIME)"; \
		SLUICE_SOAKTIME=$(SOAKTIME) $(GO) test -race -count=1 -tags frameowner -timeout 0 -run "^$$function\$$" "$$folder"; \
	done

.PHONY: generate
generate: go ## compile the XDP programs and write their Go side
	@.ci/need 'make generate' $(FOR_GENERATE)
	$(GO) generate ./...

.PHONY: check-generate
check-generate: go ## compile the XDP programs elsewhere and compare with what is committed
	@.ci/need 'make check-generate' $(FOR_GENERATE)
	@GO='$(GO)' .ci/check-generate

.PHONY: oracle
oracle: ## ask the kernel's IPVS again and compare with internal/oracle/testdata; about 2 min
	@.ci/need 'make oracle' $(FOR_ORACLE)
	@cd internal/oracle; again=$$(mktemp -d); trap 'rm -rf "$$again"' EXIT; export PYTHONDONTWRITEBYTECODE=1; \
	cp -r testdata/cases "$$again/cases"; \
	./oracle.py run "$$again"/cases/*.json -d "$$again/results"; \
	golden/golden.py same testdata "$$again"

# WITHOUT leaves out by name what is known to differ, so that nothing else hides
# behind it; internal/oracle/differential.py --features lists the names.
.PHONY: differential
differential: build ## COUNT random cases of SEED to the kernel and to sluice, without the features of WITHOUT
	@.ci/need 'make differential' $(FOR_ORACLE)
	@PYTHONDONTWRITEBYTECODE=1 internal/oracle/differential.py --sluice ./sluice --seed '$(SEED)' --count $(COUNT) --without '$(WITHOUT)' $(DIFFERENTIALFLAGS)

.PHONY: clean
clean: ## remove what was built
	rm -rf sluice .generate bench/peers/l2fwd
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
