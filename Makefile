# Two commands for a newcomer: `make demo` and `make test`. Each does its own set-up in $(VENV).
# PYTHON=python3.12 picks the interpreter; VENV=path the environment.

PYTHON ?=
VENV ?= .venv
VERSIONS ?= newest
PYTEST_ARGS ?= -q -n auto --maxprocesses 4
BIN := $(VENV)/bin
SETUP := PYTHON="$(PYTHON)" VENV="$(VENV)" scripts/setup_venv.sh
CODE := $(wildcard src tests benchmarks examples scripts)

.DEFAULT_GOAL := help
.PHONY: help demo test test-triton kernels test-gpu bench-gpu docs lint format dist check-dist setup clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

demo:  ## train, decode and plot a synthetic data set; results in runs/demo
	@$(SETUP) demo
	$(BIN)/torch-semimarkov demo --output runs/demo

test:  ## run the test suite (PYTEST_ARGS='-q -k padding' for a part of it)
	@$(SETUP) dev
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-triton:  ## run the triton backend under Triton's interpreter; needs no GPU
	@$(SETUP) dev
	$(BIN)/python tests/interpreted.py

kernels:  ## compile the usual kernels without a GPU and print what they use
	@$(SETUP) dev
	$(BIN)/python scripts/compile_kernels.py --quick

test-gpu:  ## test the triton backend at full size; says so where there is no GPU
	@$(SETUP) dev
	scripts/test_gpu.sh $(BIN)/python

bench-gpu:  ## measure the triton backend beside its peers; says so where there is no GPU
	@$(SETUP) dev
	$(BIN)/python benchmarks/gpu_vs_peers.py

docs:  ## build the documentation site in site/, with warnings as errors
	@$(SETUP) dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	$(BIN)/python scripts/check_site.py site

lint:  ## ruff check, ruff format --check, mypy on functional/
	@$(SETUP) dev
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy

format:  ## sort the imports and format the code in place
	@$(SETUP) dev
	$(BIN)/ruff check --select I --fix $(CODE)
	$(BIN)/ruff format $(CODE)

dist:  ## build the wheel and the sdist in dist/, and look into them
	@$(SETUP) dev
	rm -rf dist
	$(BIN)/python -m build -q
	$(BIN)/python scripts/check_release.py dist

check-dist: dist  ## and try the wheel where it is alone (VERSIONS=oldest|newest)
	$(BIN)/python scripts/check_release.py dist --types --versions $(VERSIONS)

setup:  ## make the environment for development
	@$(SETUP) dev

clean:  ## remove the environment, caches, builds and runs/demo
	rm -rf .venv build dist site runs/demo .pytest_cache .hypothesis .mypy_cache .ruff_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
