# One command per job. `make test` is the one that must pass before anything is merged; CI runs it and nothing else.
# docs/TESTING.md explains the layers.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

SUBJECTS := $(CURDIR)/target/subjects
TOOLS := $(CURDIR)/target/tools
PYTHON := $(SUBJECTS)/venv/bin/python3
CARGO_DENY_VERSION := 0.20.2
CARGO_FUZZ_VERSION := 0.13.2
# Seconds per fuzz target.
FUZZ_SECONDS ?= 60
# How long a fault of a drill is under load. (Make's own SECONDS would be the shell's clock.)
DRILL_SECONDS = $(if $(filter command line,$(origin SECONDS)),$(SECONDS),8)
# How long the soak is.
MINUTES ?= 30
# Where the binaries of the last build are.
BIN := $(or $(CARGO_TARGET_DIR),$(CURDIR)/target)

# Servers under test are started by bare names such as `mcp-server-time`.
export PATH := $(SUBJECTS)/npm/node_modules/.bin:$(SUBJECTS)/venv/bin:$(TOOLS)/bin:$(PATH)
export OUTRIGGER_SUBJECTS := $(SUBJECTS)

define step
@printf '\n==> %s  (%s)\n' "$(1)" "$$(date +%T)"
endef

.PHONY: help test subjects subjects-lock lint fmt scripts clippy deny unit doc kubernetes acceptance browser oauth matrix matrix-doc conformance egress compose pods cluster counts drills release bench scale soak fuzz

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

test: subjects lint unit doc kubernetes acceptance browser oauth matrix conformance egress counts compose pods ## Everything that must pass; installs what it needs under target/
	$(call step,all passed)

subjects: ## Install the servers and clients that the tests run against
	$(call step,subjects: servers and clients from npm and PyPI)
	@tests/subjects/install.sh "$(SUBJECTS)"

subjects-lock: ## Resolve the subjects anew and rewrite their lockfiles
	@tests/subjects/lock.sh

lint: fmt scripts clippy deny ## Formatting, lints, dependency policy

fmt:
	$(call step,cargo fmt --check)
	@cargo fmt --all --check

scripts:
	$(call step,shell and Python scripts parse)
	@git ls-files -z '*.sh' .ci/run | xargs -0 -n 1 bash -n
	@git ls-files -z '*.py' | xargs -0 -r python3 -c 'import ast, sys; [ast.parse(open(f).read(), f) for f in sys.argv[1:]]'
	$(call step,what the benchmarks report)
	@PYTHONDONTWRITEBYTECODE=1 python3 -m unittest discover --quiet --start-directory tests/bench

clippy:
	$(call step,cargo clippy)
	@cargo clippy --locked --workspace --all-targets -- -D warnings

deny: ## Licences, bans and sources of dependencies
	$(call step,cargo deny)
	@command -v cargo-deny >/dev/null || cargo install cargo-deny --locked --version $(CARGO_DENY_VERSION) --root $(TOOLS)
	@cargo deny --log-level error check bans licenses sources

unit: subjects ## Unit tests and in-process scenarios
	$(call step,unit tests and scenarios)
	@if command -v cargo-nextest >/dev/null; then \
	  cargo nextest run --locked --workspace; \
	else \
	  echo "cargo-nextest is not installed: using cargo test"; \
	  cargo test --locked --workspace --lib --bins --tests; \
	fi

doc: ## API docs without warnings, doc tests, links in the documentation
	$(call step,documentation)
	@RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --quiet
	@cargo test --locked --workspace --doc --quiet
	@python3 tests/docs/check_links.py

kubernetes: subjects ## Manifests and injected pods, held to the schemas of Kubernetes
	$(call step,kubernetes: schemas of manifests and injected pods)
	@$(PYTHON) tests/kubernetes/schemas.py
	@cargo build --locked --package outrigger
	@$(PYTHON) tests/kubernetes/manifests.py --outrigger "$(BIN)/debug/outrigger" --kubectl "$$(tests/kubernetes/kubectl.sh)"

acceptance: subjects ## MCP clients through a whole mesh, compared with the same servers reached directly
	$(call step,acceptance: official clients through a whole mesh)
	@cargo build --locked --package outrigger
	@$(PYTHON) tests/acceptance/run.py --start "$(BIN)/debug/outrigger" --subjects "$(SUBJECTS)"
	@$(PYTHON) tests/acceptance/trust.py --start "$(BIN)/debug/outrigger" --subjects "$(SUBJECTS)"

browser: subjects ## The desk of approvals in Chromium; installs it where it is missing
	$(call step,browser: a person approves calls)
	@cargo build --locked --package outrigger
	@chromium="$$(tests/browser/install.sh)" && \
	  $(PYTHON) tests/browser/desk.py --start "$(BIN)/debug/outrigger" --subjects "$(SUBJECTS)" --chromium "$$chromium"

oauth: subjects ## Clients that log in at a real identity provider and call through a whole mesh
	$(call step,oauth: clients log in at an identity provider)
	@cargo build --locked --package outrigger
	@$(PYTHON) tests/oauth/run.py --start "$(BIN)/debug/outrigger" --subjects "$(SUBJECTS)"

matrix matrix-doc: subjects
	$(call step,matrix: every client revision with every server revision)
	@cargo build --locked --package outrigger
	@$(PYTHON) tests/matrix/run.py --start "$(BIN)/debug/outrigger" --subjects "$(SUBJECTS)" $(if $(filter %-doc,$@),--write)
matrix: ## Every client revision with every server revision and transport; checks docs/COMPATIBILITY.md
matrix-doc: ## The same, and writes docs/COMPATIBILITY.md

conformance: subjects ## The public MCP conformance suite through a whole mesh, compared with a direct run
	$(call step,conformance: the public MCP suite through a whole mesh)
	@cargo build --locked --package outrigger
	@$(PYTHON) tests/conformance/matrix.py --start "$(BIN)/debug/outrigger" --subjects "$(SUBJECTS)"

egress: subjects ## Attack cases on egress through the proxy, redirection and a confined child; needs root
	$(call step,egress: attacks on every way out)
	@cargo build --locked --package outrigger --package outrigger-sidecar
	@$(PYTHON) tests/egress/run.py --bin "$(BIN)/debug" --subjects "$(SUBJECTS)"

counts: ## Instructions and allocations of the hot functions against their baseline; release build
	$(call step,counts: what the functions of every request cost)
	@tests/counts/counts.py

compose: subjects ## The compose files with real containers, all or ONLY=stage; installs Docker where it is missing
	$(call step,compose: containers as people run them)
	@tests/compose/install.sh "$(CURDIR)/target/compose"
	@tests/compose/programs.sh "$(CURDIR)/target/compose/programs"
	@python3 tests/compose/run.py --work "$(CURDIR)/target/compose" --subjects "$(SUBJECTS)" $(addprefix --only ,$(ONLY))

pods: subjects ## Injected pods with real containers; installs Docker where it is missing
	$(call step,pods: injected pods as containers that share a network namespace)
	@tests/compose/install.sh "$(CURDIR)/target/compose"
	@tests/compose/programs.sh "$(CURDIR)/target/compose/programs"
	@$(PYTHON) tests/kubernetes/pods.py --work "$(CURDIR)/target/compose" --subjects "$(SUBJECTS)"

cluster: ## Manifests and programs with a real API server: KUBERNETES=DIRECTORY with etcd and kube-apiserver; needs root
	$(call step,cluster: a real API server)
	@tests/kubernetes/cluster/run.py --check --programs "$(KUBERNETES)" $(addprefix --only ,$(ONLY))
	@$(MAKE) --no-print-directory subjects
	@$(if $(findstring node,$(ONLY)),tests/compose/programs.sh "$(CURDIR)/target/compose/programs")
	@cargo build --locked --package outrigger
	@PYTHONDONTWRITEBYTECODE=1 $(PYTHON) tests/kubernetes/cluster/run.py --programs "$(KUBERNETES)" --outrigger "$(BIN)/debug/outrigger" \
	  --ours "$(CURDIR)/target/compose/programs" --kubectl "$$(tests/kubernetes/kubectl.sh)" $(addprefix --only ,$(ONLY))

drills: subjects ## Things broken under load: all, or DRILL=n; SECONDS=n for longer ones
	$(call step,drills: a whole mesh under load, and one thing broken)
	@cargo build --locked --package outrigger
	@$(PYTHON) tests/drills/run.py --start "$(BIN)/debug/outrigger" --subjects "$(SUBJECTS)" \
	  --seconds $(DRILL_SECONDS) $(addprefix --drill ,$(DRILL))

release: ## Build the programs as they are released, and say where they are
	$(call step,release)
	@./release.sh

bench: ## Cost of the mesh beside a direct connection and installed peers; release build
	$(call step,bench)
	@tests/bench/run.sh

scale: ## How the ingress's costs grow with services, listeners and calls at once; release build
	$(call step,scale)
	@cargo build --locked --release --manifest-path tests/bench/tools/Cargo.toml --target-dir "$(BIN)/bench-tools"
	@programs="$$(./release.sh outrigger-ingress)" && PYTHONDONTWRITEBYTECODE=1 python3 tests/bench/scale.py --bin "$$programs"

soak: subjects ## MINUTES of mixed load with faults, after which every process holds what it held before
	$(call step,soak: $(MINUTES) minutes of mixed load with faults)
	@cargo build --locked --package outrigger
	@PYTHONDONTWRITEBYTECODE=1 $(PYTHON) tests/soak/run.py --start "$(BIN)/debug/outrigger" --subjects "$(SUBJECTS)" \
	  --minutes $(MINUTES) --json "$(BIN)/soak.json"

fuzz: ## Each fuzz target for FUZZ_SECONDS with the nightly toolchain
	$(call step,fuzz: $(FUZZ_SECONDS) s per target)
	@command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --locked --version $(CARGO_FUZZ_VERSION) --root $(TOOLS)
	@tests/fuzz/run.sh $(FUZZ_SECONDS)
