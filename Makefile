PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install -q -c constraints.txt

.PHONY: demo test check numbers docs asan fuzz wheel test-install clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch goes in first, alone and pinned: a bare "torch" pulls gigabytes of CUDA packages.
demo: $(BIN)/python
	$(PIP) torch
	$(PIP) ".[lab]"
	$(BIN)/tersenet demo --overwrite

test-install: $(BIN)/python
	$(PIP) torch
	$(PIP) ".[test]"

test: test-install
	TERSENET_REQUIRE_NATIVE=1 $(BIN)/python -m pytest

check: test-install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# sdist, Linux wheels with the native module for the interpreters named in PYTHONS, a wheel for other systems: in dist/.
PYTHONS ?= $(PYTHON)
wheel:
	$(PYTHON) packaging/wheels.py --python $(PYTHONS)

# The native module under AddressSanitizer and UBSan, in a copy of the package of its own. Python itself leaks by design.
ASAN := build/asan
ASAN_TESTS := tests/hostile/test_native.py $(addprefix tests/unit/test_,codec.py bitpack.py code_range.py format.py)
asan: test-install
	rm -rf $(ASAN)
	$(PIP) --no-deps --target $(ASAN) -C cmake.define.TERSENET_SANITIZE=ON .
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so.6)" \
	ASAN_OPTIONS=detect_leaks=0 TERSENET_REQUIRE_NATIVE=1 PYTHONPATH=$(ASAN) \
	$(BIN)/python -m pytest -n 0 --noconftest $(ASAN_TESTS)

# Ten minutes in all, or FUZZ_SECONDS: what is found lies in build/fuzz, and so does the corpus for the next time.
FUZZ_SECONDS ?= 600
fuzz: test-install
	$(PIP) ".[test,fuzz]"
	for target in reader codec checkpoint; do \
	$(BIN)/python tests/fuzz/fuzz.py $$target -max_total_time=$$(($(FUZZ_SECONDS) / 3)) || exit 1; done

# Numbers of README and docs: runs the commands behind them that take minutes (FAST=1), or all of them (FAST=all), and fills
# the pages. Needs TERSENET_DATA and WEIGHTS; goes on where it was stopped, until build/numbers is removed.
FAST ?= 1
numbers: test-install
	$(BIN)/python benchmarks/measured.py run $(if $(filter all,$(FAST)),--all)

# The documentation as pages that need no server and no network, in build/site. A warning is an error.
docs: $(BIN)/python
	$(PIP) torch
	$(PIP) ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) build dist
