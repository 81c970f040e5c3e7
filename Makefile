# Needs Python 3.11 or later with venv, and make. Everything else comes into .venv, by the locks.
SHELL := /bin/sh
PYTHON ?= python3
BIN := .venv/bin
SOURCES := libs services tests examples bench contracts deploy

.DEFAULT_GOAL := help
.PHONY: help demo test check bench contracts clean

help: ## Show this
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/.project ## See the loop close on real data (KEEP=1 leaves all running)
	@$(BIN)/ctloop demo $(if $(KEEP),--keep)

test: .venv/.project ## Run every test
	$(BIN)/python -m pytest $(ARGS)

check: .venv/.project ## Format, lint, spelling, imports, types, house rules, contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell $(wildcard $(SOURCES) docs README.md Makefile)
	$(BIN)/lint-imports
	$(BIN)/pyright
	$(BIN)/python -m pytest -q tests/house tests/contracts tests/deploy
	$(BIN)/python contracts/generate.py --check

bench: .venv/.project ## Measure, into bench/results
	$(BIN)/python -m bench $(ARGS)

contracts: .venv/.project ## Write contracts/ from ctloop.events
	$(BIN)/python contracts/generate.py

clean: ## Remove what was made here: .venv, caches, a stopped stack's data
	@if [ -x $(BIN)/ctloop ] && [ -f .ctloop/stack.json ]; then $(BIN)/ctloop down; fi
	rm -rf .venv .ctloop .pytest_cache .ruff_cache .hypothesis build *.egg-info
	find $(wildcard $(SOURCES)) -name __pycache__ -type d -prune -exec rm -rf {} +

# Redone only when a lock changes. uv writes no bytecode: without compileall each first start would pay for it, and a
# user who may not write into the environment would pay for ever.
.venv/.packages: requirements-dev.lock bootstrap.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ctloop needs Python 3.11 or later: make PYTHON=python3.11")'
	@rm -f $@
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r bootstrap.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements-dev.lock
	@echo "compiling the packages once (a minute on two cores) ..."
	@$(BIN)/python -m compileall -q -j 2 .venv/lib > .venv/compileall.log 2>&1 || true  # templates are no Python
	@touch $@

.venv/.project: .venv/.packages pyproject.toml
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@
