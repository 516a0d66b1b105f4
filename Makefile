# Two commands do it all: `make compare` and `make test`. Both set up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= runs/shapes
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 15

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "fastsal needs Python 3.10 or newer; $(PYTHON) is $$($(PYTHON) -V). Set PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.harness: pyproject.toml fastsal/_version.py | $(BIN)/python
	$(PIP) '.[harness]'
	@touch $@

$(VENV)/.everything: pyproject.toml fastsal/_version.py | $(BIN)/python
	$(PIP) '.[harness,pictures,onnx,openvino,test,dev,docs]'
	@touch $@ $(VENV)/.harness

setup: $(VENV)/.everything ## make .venv with everything in it

compare: $(VENV)/.harness ## the main job on the embedded image set; prints where the report is
	@$(BIN)/python -m comparisons run --preset quick --out $(OUT)

check: setup ## lint, types and the tests that need no training: a minute
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(BIN)/mypy & types=$$!; \
	$(BIN)/python -m pytest -q -m 'not slow and not training and not heavy' \
		--ignore tests/speed -n 2 --dist loadfile; \
	tests=$$?; wait $$types && exit $$tests

test: setup ## lint, types, the pages and every test but the long ones
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -m 'not slow' -n 2 --dist loadfile

test-long: setup ## the longer checks too, the notebooks among them
	$(BIN)/python -m pytest

docs: setup ## the pages, into build/docs; a warning is an error
	$(BIN)/mkdocs build --strict

reproduction: setup ## the paper's claims beside our figures: reports/runs/reproduction/report.html
	@$(BIN)/python -m reports.reproduction --out reports/runs/reproduction $(RUNS)

bench: setup ## pytest-benchmark runs, side by side with the peers; BENCH= adds options
	$(BIN)/python -m pytest tests/speed --benchmark-only --benchmark-group-by=group \
		--benchmark-columns=median,iqr,rounds --benchmark-sort=mean $(BENCH)

clean: ## remove .venv and caches; runs stay
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache

.PHONY: help setup compare check test test-long docs reproduction bench clean
