PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install -q -c constraints.txt

.PHONY: demo test check test-install clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch goes in first, alone and pinned: a bare "torch" pulls gigabytes of CUDA packages.
demo: $(BIN)/python
	$(PIP) torch
	$(PIP) ".[lab]"
	$(BIN)/tersenet demo --force

test-install: $(BIN)/python
	$(PIP) torch
	$(PIP) ".[test]"

test: test-install
	TERSENET_REQUIRE_NATIVE=1 $(BIN)/python -m pytest

check: test-install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist
