# Needs Python 3.11 or newer and nothing else: everything goes into $(VENV).
# Overridable: PYTHON=/path/to/python3 VENV=folder ARGS='-k name' (for test, torture, bench)

VENV ?= .venv
PYTHON ?= $(shell for python in python3.13 python3.12 python3.11 python3.14 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)
ARGS ?=
WORKERS ?= 2
BIN := $(VENV)/bin
# Checked for drift as soon as it is there.
DOCS := $(wildcard docs/generate.py)

.DEFAULT_GOAL := help
.PHONY: help demo test torture check bench docs clean

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 12

demo: $(VENV)/.demo ## PostgreSQL to NATS in the terminal, with embedded servers
	@$(BIN)/cdc demo

test: $(VENV)/.dev ## the tests, against real servers
	$(BIN)/python -m pytest -m 'not torture' -n $(WORKERS) $(ARGS)

torture: $(VENV)/.dev ## the long tests
	$(BIN)/python -m pytest -m torture -n $(WORKERS) --dist worksteal $(ARGS)

check: $(VENV)/.dev ## ruff, mypy, import-linter, docs drift
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(if $(DOCS),$(BIN)/python $(DOCS) --check)

bench: $(VENV)/.dev ## how fast, beside other programs
	PYTHONPATH="$(CURDIR)/tests" $(BIN)/python -m benchmarks $(ARGS)

docs: $(VENV)/.dev ## write the generated parts of docs/ anew
	$(BIN)/python docs/generate.py

clean: ## remove the virtual environment and the caches
	if [ -f $(VENV)/pyvenv.cfg ]; then rm -rf $(VENV); fi
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find core plugins tests -name __pycache__ -type d -prune -exec rm -rf {} +

# $(VENV)/.demo and $(VENV)/.dev stand for the extras that are installed.
$(VENV)/.%: pyproject.toml constraints.txt | $(VENV)/.python
	@echo "installing the extra '$*' into $(VENV)"
	@PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet \
		--disable-pip-version-check --editable '.[$*]' --constraint constraints.txt
	@touch $@ $(if $(filter dev,$*),$(VENV)/.demo)

$(VENV)/.python:
	@if [ -z "$(PYTHON)" ]; then \
		echo "no Python 3.11 or newer found: install one, or name it: make PYTHON=..." >&2; exit 1; fi
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		version=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
		echo "Python $$version cannot build virtual environments;" \
			"on Debian and Ubuntu: apt-get install python$$version-venv" >&2; exit 1; }
	@echo "building $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@touch $@
