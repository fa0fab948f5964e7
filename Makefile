# The two commands of the README: `make demo` and `make test`. Both set up what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
export RAY_USAGE_STATS_ENABLED = 0

.PHONY: demo test check lint docs clean help

help:
	@echo "make demo   install, run the main job on a mock release, say where the report is"
	@echo "make test   install, run every test that can run on this machine in minutes"
	@echo "make check  static tools and fast tests"
	@echo "make lint   static tools alone"
	@echo "make docs   build the documentation into site/"

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,bench,docs]'
	touch $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/spectra-scale run jobs/demo.toml

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint
	$(BIN)/pytest -q

# Fast tests side by side, a file at a time; those that start clusters or are killed, alone.
test: $(INSTALLED)
	$(BIN)/pytest -q -n auto --maxprocesses 4 --dist loadfile
	$(BIN)/pytest -q -m "(slow or cluster) and not exhaustive and not gpu and not network"

docs: $(INSTALLED)
	$(BIN)/mkdocs build --strict

clean:
	rm -rf runs site .pytest_cache .mypy_cache .ruff_cache
	find spectra_scale -name '*.nb[ci]' -delete
