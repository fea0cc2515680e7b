# Every target installs its requirements: on a fresh machine, `make test` is enough.
# PYTHON: the interpreter that creates .venv. CONSTRAINTS: the file with the pinned versions.
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
AXE := tests/browser/node_modules/axe-core/axe.min.js
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS)

.DEFAULT_GOAL := help
.PHONY: help setup browser check docs test test-slow test-gpu examples demo bench bench-aggregation bench-estimators bench-spectra format clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## create .venv with all development dependencies

# The build backend is installed first, from the pins, so that nothing unpinned is fetched.
$(STAMP): pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(PIP) hatchling editables
	$(PIP) --no-build-isolation --editable '.[dev]'
	@touch $@

browser: ## install the requirements of the report's tests: Chromium and npm (by apt, if missing), axe-core (by npm)
	@missing=; \
	command -v chromium >/dev/null || command -v google-chrome >/dev/null || missing=chromium; \
	command -v npm >/dev/null || missing="$$missing npm"; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
		echo "make browser: install $$missing first; this requires root." >&2; exit 1; \
	fi; \
	apt-get update -qq && \
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null
	@$(MAKE) --no-print-directory $(AXE)

$(AXE): tests/browser/package-lock.json
	npm ci --prefix tests/browser --silent --no-audit --no-fund
	@touch $@

check: $(STAMP) docs ## lint, check format and strict types, build the documentation without warnings
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(STAMP) ## build the documentation in docs/_build/html
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html

# Each worker has a core: more threads than that, in numpy or in a process that a test starts, only cost.
test test-slow: export OMP_NUM_THREADS ?= 1

test: $(STAMP) ## run the fast tests, the doctests and the README's examples
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not slow and not gpu"

test-slow: $(STAMP) ## run the slow tests
	$(BIN)/python -m pytest -m "slow and not gpu"

test-gpu: $(STAMP) ## run the tests that need a CUDA device (skipped without one)
	$(BIN)/python -m pytest -m gpu

examples: $(STAMP) ## run every command of the how-to pages, in fresh environments with the named extras
	$(BIN)/python tests/run_pages.py

demo: $(STAMP) ## compare sharpness-aware with plain training on real digits
	$(BIN)/samo compare digits --methods ls,fairgrad --sharpness erm,gsam,samo --rho 0.2 --seeds 3 --epochs 20 --jobs 2 --out runs/demo

bench: $(STAMP) ## measure the cost of a step, and write the tables and the figure of docs/cost.md (ten minutes)
	$(BIN)/python benchmarks/cost.py

bench-aggregation: $(STAMP) ## measure a call of each method, of this package and of TorchJD
	$(BIN)/python benchmarks/aggregation.py

bench-estimators: $(STAMP) ## measure quality and cost of the estimators; DATA: the directory with fashion_mnist/
	$(BIN)/python benchmarks/estimators.py quality --case digits
	$(BIN)/python benchmarks/estimators.py quality --case multifashion --data $(DATA)
	$(BIN)/python benchmarks/estimators.py quality --case questions --data $(DATA)
	$(BIN)/python benchmarks/estimators.py cost --case multifashion --data $(DATA)
	$(BIN)/python benchmarks/overlaid.py --data $(DATA) --runs runs/multifashion --jobs 2
	$(BIN)/python benchmarks/estimators_accuracy.py --runs runs/multifashion
	$(BIN)/python benchmarks/questions.py --runs runs/questions --jobs 2

bench-spectra: $(STAMP) ## compute Hessian spectra during training on digits, ERM and GSAM
	$(BIN)/python benchmarks/spectra.py

format: $(STAMP) ## format, and apply ruff's automatic fixes
	$(BIN)/ruff check --fix-only --exit-zero
	$(BIN)/ruff format

clean: ## remove .venv, caches and builds, but not runs/
	rm -rf $(VENV) dist build docs/_build docs/_generated .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage htmlcov
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
