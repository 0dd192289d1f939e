# Every step of CI is a target here; `make help` lists them.

PYTHON ?= python3
UV ?= uv
PYTEST_ARGS ?=
PYTEST_WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
PROTO_BIN := .venv-proto/bin
INSTALLED := $(VENV)/.runtime-stamp $(VENV)/.project-stamp
DEV := $(INSTALLED) $(VENV)/.dev-stamp
TYPED := $(wildcard orchestrator_svc state_svc clients/python/ramify tests scripts)
PIP_FLAGS := --disable-pip-version-check --no-input --quiet
# Files in the order of their folders: those with services and many seconds come before `unit`, so that
# no worker is left alone with a long one at the end.
PYTEST := $(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)
UV_COMPILE := $(UV) pip compile --quiet --universal --generate-hashes --python-version 3.11 \
	--fork-strategy fewest --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

# The gRPC core reports every GOAWAY on stderr otherwise.
export GRPC_VERBOSITY ?= ERROR
# Where it is set, each of the hundreds of processes that the tests start would compile its sources
# again, a quarter of the time of a start.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

.PHONY: help
help: ## Show this list
	@echo "usage: make <target> [PYTHON=python3.12] [PYTEST_ARGS='-k watch']"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# -- environments ------------------------------------------------------------
# A stamp is newer than its lock exactly when the environment matches the lock.

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: $(PYTHON) is older than Python 3.11; set PYTHON=..." >&2; exit 1; }
	@echo "==> creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.runtime-stamp: requirements/runtime.txt | $(BIN)/python
	@echo "==> installing the runtime requirements (hash-checked), a minute on first use"
	@$(BIN)/python -m pip install $(PIP_FLAGS) --require-hashes -r requirements/runtime.txt
	@touch $@

# Editable, offline: the build backend is part of the runtime lock.
$(VENV)/.project-stamp: pyproject.toml $(VENV)/.runtime-stamp
	@echo "==> installing the project (editable)"
	@$(BIN)/python -m pip install $(PIP_FLAGS) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev-stamp: requirements/dev.txt $(VENV)/.runtime-stamp
	@echo "==> installing the development requirements (hash-checked)"
	@$(BIN)/python -m pip install $(PIP_FLAGS) --require-hashes -r requirements/dev.txt
	@touch $@

$(PROTO_BIN)/.stamp: requirements/proto.txt
	@echo "==> creating .venv-proto with the stub generator"
	@$(PYTHON) -m venv .venv-proto || { rm -rf .venv-proto; exit 1; }
	@$(PROTO_BIN)/python -m pip install $(PIP_FLAGS) --require-hashes -r requirements/proto.txt
	@touch $@

.PHONY: install
install: $(INSTALLED) ## Create .venv with what Ramify needs to run

.PHONY: dev
dev: $(DEV) ## Create .venv with the tools for tests, lint and types too

.PHONY: lock
lock: ## Recompile the locks in requirements/ from the .in files (needs uv)
	@echo "==> compiling requirements/{runtime,dev,proto}.txt"
	@cd requirements && for name in runtime dev proto; do \
		$(UV_COMPILE) $(LOCK_ARGS) $$name.in -o $$name.txt || exit 1; done

# -- generated code ----------------------------------------------------------

.PHONY: proto
proto: $(PROTO_BIN)/.stamp ## Generate the Python stubs from protos/
	@echo "==> generating stubs"
	@$(PROTO_BIN)/python scripts/gen_protos.py

.PHONY: proto-check
proto-check: $(PROTO_BIN)/.stamp $(DEV) ## Fail on stale stubs or on a wire break since the last release
	@echo "==> comparing the committed stubs with protos/"
	@$(PROTO_BIN)/python scripts/gen_protos.py --check
	@if tag=$$(git describe --tags --abbrev=0 --match 'v*' 2>/dev/null); then \
		echo "==> buf breaking, against $$tag"; \
		$(BIN)/buf breaking --against ".git#tag=$$tag"; \
	else echo "==> buf breaking: no release tag to compare with, skipped"; fi

# -- checks ------------------------------------------------------------------

.PHONY: format
format: $(DEV) ## Format Python and apply safe lint fixes
	@echo "==> formatting"
	@$(BIN)/ruff check --fix --exit-zero --quiet .
	@$(BIN)/ruff format .

.PHONY: lint
lint: $(DEV) ## Run ruff, buf and the check for machine-specific text
	@echo "==> ruff check"
	@$(BIN)/ruff check .
	@echo "==> ruff format --check"
	@$(BIN)/ruff format --check .
	@echo "==> buf lint"
	@$(BIN)/buf lint
	@echo "==> tracked files"
	@$(BIN)/python scripts/check_tracked.py

.PHONY: typecheck
typecheck: $(DEV) ## Run mypy --strict on services, SDK, tests and scripts
	@echo "==> mypy --strict"
	@$(BIN)/python -m mypy $(TYPED)

# -- tests -------------------------------------------------------------------

.PHONY: test
test: $(DEV) ## Run the test suite (everything but `slow`)
	@echo "==> pytest, all but slow tests, $(PYTEST_WORKERS) workers"
	@$(PYTEST) tests -m "not slow"

.PHONY: test-all
test-all: $(DEV) ## Run every test, slow ones included
	@echo "==> pytest, all tests, $(PYTEST_WORKERS) workers"
	@$(PYTEST) tests

.PHONY: faults
faults: $(DEV) ## Run the whole fault matrix (kills, bad network, full disk, bit flips)
	@echo "==> pytest tests/faults, all markers"
	@$(PYTEST) tests/faults

.PHONY: bench
bench: $(DEV) ## Run the benchmarks and print the numbers
	@echo "==> benchmarks"
	@$(BIN)/python -m tests.bench

# -- run ---------------------------------------------------------------------

.PHONY: up
up: $(INSTALLED) ## Start both services, data in ./data
	@echo "==> ramify up, data in ./data, stop with Ctrl-C"
	@$(BIN)/ramify up --data ./data

.PHONY: demo
demo: $(INSTALLED) ## Run one research project over real documents, end to end
	@echo "==> demo"
	@$(BIN)/python scripts/demo.py

.PHONY: clean
clean: ## Remove environments, caches and builds; keeps ./data
	@echo "==> removing environments, caches and builds (./data is kept)"
	@rm -rf $(VENV) .venv-proto build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name node_modules -prune -o -type d -name __pycache__ -exec rm -rf {} +
