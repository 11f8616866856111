# `make demo` and `make test` are all a fresh machine needs; Python >= 3.10 and a C++ compiler are.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# The version that development and CI use; the package itself accepts torch >= 2.10.
TORCH  := torch==2.13.0

.PHONY: demo test lint fast-test clean

demo: $(VENV)/.installed
	$(BIN)/ldeq demo --out demo

test: lint
	$(BIN)/python -m pytest

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# torch first and by itself: a range would take a newer build than the one that is tested.
$(VENV)/.installed: $(VENV)/bin/python pyproject.toml setup.py
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info demo .mypy_cache .ruff_cache .pytest_cache
