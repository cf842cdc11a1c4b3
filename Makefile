# `make demo` and `make test` are all there is to know; the rest stands beside them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

CARGO ?= $(shell command -v cargo || echo $(HOME)/.cargo/bin/cargo)
# Suites that make real sandboxes need root.
AS_ROOT := $(shell [ "$$(id -u)" -eq 0 ] || echo sudo -E)
SUITES := caisson-tests
# One selection for the program and for the tests beside it: what is selected decides the features of what we depend on, and each set of
# features is a build of its own.
SELECTED := --release --locked --workspace --exclude $(SUITES) --exclude caisson-fuzz
PROGRAMS := $(SELECTED) --bin caisson --bin caisson-probe
# What depends on how records are kept, and so runs on both databases.
ON_POSTGRES := api boxbox crash daiv events idempotency modbox templates tenants workspaces
# Of each fuzz target: a short run among the tests, a long one by `make fuzz`.
FUZZ_SHORT := 5
TIME ?= 600
TARGETS ?=
# Of the benchmarks: all when empty.
ONLY ?=
DENY := PATH="$(dir $(CARGO)):$$PATH" target/tools/cargo-deny/bin/cargo-deny --locked

.PHONY: help
help:
	@echo "make demo      build, start a server, run real programs and hostile ones in sandboxes, stop it"
	@echo "make test      all tests, on the real kernel"
	@echo "make test-postgres  all suites again, with all records in PostgreSQL (make test runs those that depend on it)"
	@echo "make test-vm   the suites about the kernel, in a virtual machine with cgroup v2"
	@echo "make fuzz      looks for inputs that break a promise: TIME=600 seconds for each of TARGETS (all)"
	@echo "make bench     speed, side by side with chroot, bubblewrap, runc and gVisor: ONLY=warm,sync for these parts alone"
	@echo "make lint      formatting, lints, and what the dependencies may be"
	@echo "make advisories  what is known against the dependencies; needs the internet"
	@echo "make build     target/release/caisson"

.PHONY: build
build:
	@tools/setup build
	$(CARGO) build $(SELECTED) --bin caisson

.PHONY: demo
demo:
	@tools/setup build demo
	$(CARGO) build $(SELECTED) --bin caisson --quiet
	$(AS_ROOT) tools/demo target/release/caisson

# First what tests parts by themselves, then the suites on the program.
.PHONY: test
test:
	@tools/setup build test fuzz
	@tools/gvisor
	@tools/schemathesis
	@tools/modbox-clients
	@tools/ai-tool
	@CARGO=$(CARGO) tools/s3-servers
	$(CARGO) build $(PROGRAMS)
	$(CARGO) test $(SELECTED) --no-fail-fast
	CARGO=$(CARGO) fuzz/run $(FUZZ_SHORT)
	CARGO=$(CARGO) tests/run
	CARGO=$(CARGO) CAISSON_TEST_DATABASE=postgres CAISSON_TEST_LOCKS=redis tests/run $(ON_POSTGRES)

.PHONY: test-postgres
test-postgres:
	@tools/setup build test
	@tools/gvisor
	@tools/schemathesis
	@tools/modbox-clients
	@tools/ai-tool
	@CARGO=$(CARGO) tools/s3-servers
	$(CARGO) build $(PROGRAMS)
	CARGO=$(CARGO) CAISSON_TEST_DATABASE=postgres tests/run

.PHONY: test-vm
test-vm:
	@tools/setup build vm
	$(CARGO) build $(PROGRAMS)
	tests/vm/run.sh

.PHONY: fuzz
fuzz:
	@tools/setup build fuzz
	CARGO=$(CARGO) fuzz/run $(TIME) $(TARGETS)

.PHONY: bench
bench:
	@tools/setup build bench
	@tools/gvisor
	@CARGO=$(CARGO) tools/s3-servers
	$(CARGO) build $(SELECTED) --bin caisson --bin caisson-bench
	$(AS_ROOT) target/release/caisson-bench target/release/caisson $(ONLY:%=--only %)

.PHONY: lint
lint:
	@tools/setup build demo fuzz deny
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings
	@for script in tools/setup tools/gvisor tools/schemathesis tools/modbox-clients tools/ai-tool tools/s3-servers .ci/run fuzz/run fuzz/rustc tests/run tests/vm/*.sh images/*.sh images/*/build; do bash -n "$$script"; done
	@for script in tools/demo examples/*.py tests/modbox/*.py images/*.py; do python3 -c 'import ast, sys; ast.parse(open(sys.argv[1]).read())' "$$script"; done
	$(DENY) check licenses bans sources
	@echo "Not checked here: advisories, whose database needs the internet; make advisories"

.PHONY: advisories
advisories:
	@tools/setup build deny
	$(DENY) check advisories

.PHONY: clean
clean:
	$(CARGO) clean
