# The two commands a newcomer types are `make demo` and `make test`. Both start from nothing but
# Python 3.11 or newer: they make .venv, install into it and go.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2

.PHONY: demo test test-slow test-browser test-cluster lint types docs hooks check benchmarks clean help

help:
	@echo "make demo        install, run the whole main job on simulated data, print a leaderboard"
	@echo "make test        install, run the test suite"
	@echo "make test-slow   the tests that take longer, such as the installed wheel's demo"
	@echo "make test-browser  the pages in a headless Chromium, where there is one"
	@echo "make test-cluster  Ray, and Slurm where it is installed, on this machine"
	@echo "make lint types  ruff and mypy"
	@echo "make docs        check the documentation, run its tutorials, build it into site/"
	@echo "make hooks       run ruff and mypy before every commit"
	@echo "make benchmarks  speed ratios against plain implementations, as JSON"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; run make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --progress-bar off -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --progress-bar off -e '.[dev]'
	@touch $@ $(VENV)/.installed

demo: $(VENV)/.installed
	$(BIN)/spade-bench demo --out demo

test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow and not browser and not cluster"

test-slow: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m slow

test-browser: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m browser tests/browser

test-cluster: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m cluster tests/evaluation

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

docs: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/core/test_docs*.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

hooks: $(VENV)/.installed-dev
	$(BIN)/pre-commit install

check: lint types docs test

benchmarks: $(VENV)/.installed
	$(BIN)/python benchmarks/pretrain.py --json
	$(BIN)/python benchmarks/routing.py --json
	$(BIN)/python benchmarks/prepare.py --json
	$(BIN)/python benchmarks/heads.py --json
	$(BIN)/python benchmarks/pack.py --json
	$(BIN)/python benchmarks/extract.py --json

clean:
	rm -rf $(VENV) demo site build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
