# Everything a fresh machine needs: `make demo` and `make test` create the environment and install what is missing.
# Use your own environment with `make test VENV=/path/to/venv`.

SHELL := /bin/bash
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= runs/demo

.DEFAULT_GOAL := help
.PHONY: help demo test lint types docs clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## pre-train on the bundled pictures, evaluate, write runs/demo/report.html
	$(BIN)/unmask demo --out $(DEMO) --overwrite

test: $(VENV)/.installed-dev ## run the tests
	$(BIN)/python -m pytest -n logical

lint: $(VENV)/.installed-dev ## check style and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.installed-dev ## check the types of the package
	$(BIN)/mypy

docs: $(VENV)/.installed-dev ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean: ## remove the environment in .venv, the demo run, the built documentation and caches
	rm -rf .venv site dist build runs/demo .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment: any Python from 3.11 on. PYTHON=/path/to/python chooses one by hand.
PYTHON ?= $(firstword $(foreach name,python3 python3.14 python3.13 python3.12 python3.11,$(shell \
	command -v $(name) > /dev/null && $(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null \
	&& echo $(name))))

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "unmask needs Python 3.11 or newer; found: $$(python3 --version 2>&1)." \
		"Install one, or name it: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Creating the environment $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf "$(VENV)"; \
		echo "Could not create $(VENV). On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo "Installing unmask and what it needs (PyTorch is large: minutes on a slow line)"
	$(BIN)/python -m pip install --disable-pip-version-check -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	@echo "Installing unmask, the test tools and the documentation tools (PyTorch is large: minutes on a slow line)"
	$(BIN)/python -m pip install --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/.installed
