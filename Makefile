# make demo        a real Ollama model becomes a verified vLLM deployment (downloads about 1 GB of vLLM's CPU build once)
# make test        what CI runs: lint, types, layers, tests with real servers
# make test-full   everything, slow checks included
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-fast test-full lint docs install tools clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	@echo "setting up $(VENV) (a minute, once)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

demo: install
	$(BIN)/migrate demo --force

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m docs.generate --check

test: lint tools
	$(BIN)/pytest -m "not full"

test-fast: install
	$(BIN)/pytest -m "not full and not live"

test-full: lint tools
	$(BIN)/pytest

tools:
	@scripts/test-tools.sh

docs: install
	$(BIN)/python -m docs.generate

clean:
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
