PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Made once, and again when a requirement changes.
READY := $(VENV)/ready

.PHONY: help quickstart test test-slow lint unit clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

quickstart: $(READY) ## install, train a classifier of digits, show what it is worth
	$(BIN)/python train.py --config configs/digits_cnn.yaml

test: lint unit ## everything that must hold: ruff, mypy, pytest; under ten minutes on two CPU cores

test-slow: $(READY) ## the tests that `make test` leaves out, since they take longer
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n 2

# For 3.10, the oldest Python, wherever numpy's types can be read so: those that 3.12 and later get cannot.
OLDEST = $$($(BIN)/python -c 'import sys; print("--python-version=3.10" * (sys.version_info < (3, 12)))')

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(OLDEST)

# Two files at a time: most of a test is one thread's work, and two threads in each of two processes wait for each other.
unit: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

clean: ## remove the environment and the caches of the tools
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build src/*.egg-info

$(READY): requirements.txt setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev,wandb]"
	touch $(READY)
