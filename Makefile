PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Processes with two threads each would slow each other down on two processors. Three, because tests wait now and then.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: help quickstart test test-fast lint types pytest coverage docs bench clean

help:  ## List the targets.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "genretree needs Python 3.11 or newer; choose one with: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

# torch goes first and by its exact version: that build is for the CPU and saves several gigabytes.
$(VENV)/.installed: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing genretree and its dependencies (about 2 GB, a minute or two) ..."
	$(PIP) install --progress-bar on -c constraints.txt torch==2.13.0
	$(PIP) install --progress-bar on -c constraints.txt -e '.[serve]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Installing the development tools ..."
	$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@

quickstart: $(VENV)/.installed  ## Install, then run the full pipeline on a synthetic corpus.
	$(BIN)/genretree quickstart

test: $(VENV)/.installed-dev lint types pytest  ## Install, then check style and types and run every test.

test-fast: $(VENV)/.installed-dev lint  ## Check style and run the tests that are not marked as slow: a minute or two.
	$(ONE_THREAD) $(BIN)/python -m pytest -n 3 --dist loadfile -m "not slow"

lint: $(VENV)/.installed-dev  ## Check style and docstrings.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell src tests docs benchmarks examples *.md
	$(BIN)/numpydoc lint $$(find src/genretree -name '*.py')

types: $(VENV)/.installed-dev  ## Check types.
	$(BIN)/mypy

pytest: $(VENV)/.installed-dev  ## Run every test.
	$(ONE_THREAD) $(BIN)/python -m pytest -n 3 --dist loadfile

coverage: $(VENV)/.installed-dev  ## Run every test and report the lines and branches that none reaches.
	$(ONE_THREAD) $(BIN)/python -m pytest -n 3 --dist loadfile --cov --cov-report term --cov-report html:coverage

docs: $(VENV)/.installed-dev  ## Make the site of the pages, in docs/_build.
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build
	@echo "docs/_build/index.html"

# QUICK=1: in minutes, for a look. MUSIC=folder or CSV, TRACK=file: instead of composed music.
bench: $(VENV)/.installed-dev  ## Install, then measure everything side by side with the usual way (at most an hour).
	$(BIN)/python benchmarks/everything.py $(if $(QUICK),--quick) $(if $(MUSIC),--music "$(MUSIC)") $(if $(TRACK),--track "$(TRACK)")

clean:  ## Remove everything that was made here.
	rm -rf $(VENV) quickstart bench coverage .coverage* docs/_build build dist .mypy_cache .ruff_cache .pytest_cache
