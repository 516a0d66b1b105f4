# Two commands do it all: `make compare` and `make test`. Both set up .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= runs/shapes
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 15

$(VENV)/.installed: pyproject.toml fastsal/_version.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "fastsal needs Python 3.10 or newer; $(PYTHON) is $$($(PYTHON) -V). Set PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[harness,pictures,onnx,test,dev]'
	@touch $@

setup: $(VENV)/.installed ## make .venv with everything in it

compare: setup ## the main job on the embedded image set; prints where the report is
	@$(BIN)/python -m comparisons run --preset quick --out $(OUT)

test: setup ## lint, types and every test but the long ones
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -m 'not slow' -n 2 --dist loadfile

test-long: setup ## the longer checks too
	$(BIN)/python -m pytest

reproduction: setup ## the paper's claims beside our figures: reports/runs/reproduction/report.html
	@$(BIN)/python -m reports.reproduction $(RUNS)

bench: setup ## pytest-benchmark runs, side by side with the peers; BENCH= adds options
	$(BIN)/python -m pytest tests/speed --benchmark-only --benchmark-group-by=group \
		--benchmark-columns=median,iqr,rounds --benchmark-sort=mean $(BENCH)

clean: ## remove .venv and caches; runs stay
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache

.PHONY: help setup compare test test-long reproduction bench clean
