PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Made once, and again when a requirement changes.
READY := $(VENV)/ready

.PHONY: help quickstart tensorboard test test-slow format lint unit docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

quickstart: $(READY) ## install, train a digit classifier, show its results
	$(BIN)/python train.py --config configs/digits_cnn.yaml

tensorboard: $(READY) ## show the runs in TensorBoard: scalars, images, hyper-parameters
	$(BIN)/tensorboard --logdir runs --samples_per_plugin images=1000

test: lint unit ## run ruff, mypy and pytest; under ten minutes on two CPU cores

test-slow: $(READY) ## run the slow tests, which `make test` leaves out
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n 2

# Check for 3.10, the oldest Python; not with 3.12 and later, whose numpy has types that 3.10 cannot read.
OLDEST = $$($(BIN)/python -c 'import sys; print("--python-version=3.10" * (sys.version_info < (3, 12)))')

format: $(READY) ## format the code and fix what ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(OLDEST)

# Two files at a time: most of a test is one thread's work, and two threads in each of two processes wait for each other.
unit: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

docs: $(READY) ## build the docs site into site/
	$(BIN)/mkdocs build --strict

clean: ## remove the environment and the caches of the tools
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build site src/*.egg-info

$(READY): requirements.txt setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $(READY)
