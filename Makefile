# `make` alone lists the targets. Needs Python 3.11 or newer; everything is installed into .venv.

.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := capture_cli tests benchmarks docs examples

# Use uv if it runs (a pyenv shim may be on the PATH without it), else pip. The wheels of torch are large: be patient.
UV := $(shell uv --version >/dev/null 2>&1 && echo uv)
export UV_HTTP_TIMEOUT ?= 300
export PIP_DEFAULT_TIMEOUT ?= 300
ifeq ($(UV),uv)
MAKE_VENV = uv venv --quiet --clear --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(VENV)
INSTALL = uv pip install --quiet --python $(BIN)/python
COMPILED := --compile-bytecode
else
MAKE_VENV = $(PYTHON) -m venv --clear $(VENV) || { echo 'Python has no venv module; on Debian and Ubuntu: apt-get install python3-venv' >&2; exit 1; }
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check
NOT_COMPILED := --no-compile
endif
# What capture imports is compiled now, or the first commands (all of them with PYTHONDONTWRITEBYTECODE) take seconds longer.
# What only tests import is compiled by them: all of those packages together take more than a minute.

# One process a processor, see CONTRIBUTING.md. Keep what they compile, or each of the hundreds of commands that the tests
# start compiles capture again.
PYTEST := -m pytest -q -n auto --dist loadfile
test oldest: export PYTHONDONTWRITEBYTECODE :=

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: setup
setup: $(VENV)/runtime.stamp ## create .venv and install capture from requirements.lock

.PHONY: demo
demo: setup ## train on sample_data/, record everything to runs/demo, and inspect it
	$(BIN)/capture train sample_data --epochs 5 --out runs/demo --force
	$(BIN)/capture inspect runs/demo

.PHONY: test
test: $(VENV)/dev.stamp ## run every test, on every processor
	$(BIN)/python $(PYTEST)

.PHONY: oldest
oldest: $(BIN)/python ## run every test with the oldest versions pyproject.toml allows (needs uv)
	uv venv --quiet --clear --python $(BIN)/python $(VENV)/oldest
	uv pip install --quiet --compile-bytecode --python $(VENV)/oldest/bin/python --resolution lowest-direct --group dev \
	  --editable '.[mlflow,tensorboard,lightning,transformers]'
	$(VENV)/oldest/bin/python $(PYTEST)

.PHONY: lint
lint: $(VENV)/dev.stamp ## check style and formatting
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

.PHONY: types
types: $(VENV)/dev.stamp ## check types with mypy --strict
	$(BIN)/mypy

.PHONY: check
check: lint types test ## run lint, types and test, as .ci/run does

.PHONY: format
format: $(VENV)/dev.stamp ## format the code and fix what ruff can fix
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

.PHONY: bench
bench: $(VENV)/dev.stamp ## measure what capture costs (half an hour, on an idle machine)
	$(BIN)/python benchmarks/bench.py

.PHONY: bench-pillow
bench-pillow: $(VENV)/dev.stamp ## decode Pillow's own test images: make bench-pillow FROM=pillow-13.0.0.tar.gz
	$(BIN)/python benchmarks/pillow_images.py $(FROM)

.PHONY: bench-answers
bench-answers: $(VENV)/dev.stamp ## measure for an hour how well planted wrong labels are found
	$(BIN)/python benchmarks/answers.py

.PHONY: reliability
reliability: setup ## kill, truncate and damage runs, fill disks, and count failures (1 to 2 hours)
	$(BIN)/python -m benchmarks.reliability --size large

.PHONY: docs
docs: $(VENV)/dev.stamp ## record sessions, pictures and the command reference again
	$(BIN)/python docs/record.py
	$(BIN)/python docs/picture.py

.PHONY: lock
lock: ## update the versions in the lock files (needs uv)
	uv pip compile pyproject.toml --group build $(LOCK_OPTIONS) --output-file requirements.lock
	uv pip compile pyproject.toml --all-extras --group build --group dev --constraints requirements.lock $(LOCK_OPTIONS) --output-file requirements-dev.lock

LOCK_OPTIONS := --quiet --upgrade --universal --python-version 3.11 --generate-hashes --custom-compile-command 'make lock' --no-annotate

.PHONY: clean
clean: ## remove .venv, caches and the demo run
	rm -rf $(VENV) build dist runs/demo benchmarks/data .pytest_cache .mypy_cache .ruff_cache .hypothesis ./*.egg-info
	find $(SOURCES) -name __pycache__ -prune -exec rm -rf {} +

# A stamp is written after a complete installation, so an interrupted one is repeated and a complete one costs nothing.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo 'capture needs Python 3.11 or newer, and $(PYTHON) is older. Choose another: make $(or $(MAKECMDGOALS),setup) PYTHON=python3.12' >&2; exit 1; }
	@echo 'creating $(VENV) with $(or $(UV),pip)'
	@$(MAKE_VENV)

$(VENV)/runtime.stamp: requirements.lock pyproject.toml | $(BIN)/python
	@echo 'installing torch and other packages from $< (about 2.6 GB the first time)'
	@$(INSTALL) $(COMPILED) --require-hashes -r $<
	@$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/dev.stamp: requirements-dev.lock $(VENV)/runtime.stamp
	@echo 'installing the test tools from $<'
	@$(INSTALL) $(NOT_COMPILED) --require-hashes -r $<
	@touch $@
