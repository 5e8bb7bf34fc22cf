# Everything a newcomer needs. The environment goes to .venv, runs go to runs/.
PYTHON ?= python3.11
BIN := .venv/bin
# Two test files at a time: engines and workers wait for each other, and for files, half of the time.
SIDE_BY_SIDE := --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations=30 --durations-min=5
# No hub, no usage reports: everything here works offline once installed.
export HF_HUB_OFFLINE ?= 1
export RAY_USAGE_STATS_ENABLED ?= 0
export VLLM_NO_USAGE_STATS ?= 1
export DO_NOT_TRACK ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK ?= 1

.PHONY: demo test check lint environment clean

demo: environment  ## the whole method on a real model on this machine, into runs/demo
	$(BIN)/humpback run smollm2 --run runs/demo

test: lint  ## all of lint, and the tests on real engines; the rest is pytest -m long
	$(BIN)/pytest -m "not long" $(SIDE_BY_SIDE)

check: lint  ## all of lint, and the fast tests; what proves resume is slow and only in `make test`
	$(BIN)/pytest -m "not slow and not long" $(SIDE_BY_SIDE)

lint: environment  ## format, lint, types, import contracts
	$(BIN)/ruff format --check humpback_ray jobs benchmarks tests
	$(BIN)/ruff check humpback_ray jobs benchmarks tests
	$(BIN)/mypy
	$(BIN)/lint-imports

environment: .venv/installed

# torch first and with its dependencies, so that whichever build the index has comes whole; the rest
# of the lock without resolving (see the file's head).
.venv/installed: requirements/cpu.txt pyproject.toml
	@echo "Installing the environment into .venv: about 3 GB, about two minutes on a fast network."
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint requirements/cpu.txt torch
	$(BIN)/pip install --quiet --no-deps --requirement requirements/cpu.txt
	$(BIN)/pip install --quiet --no-deps --editable .
	@touch $@

clean:  ## remove runs, caches and the environment
	rm -rf .venv runs .pytest_cache .mypy_cache .ruff_cache *.egg-info
