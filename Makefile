# Two commands on a fresh machine with Python 3.11 or newer and make:
#   make demo    sets up what it needs and runs the main job on every side
#   make test    sets up what it needs and runs every check
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# One stamp for the whole set-up: it is made again only when pyproject.toml changes.
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test check bench clean

help:
	@sed -n '1,3s/^# \{0,1\}//p' Makefile
	@echo '  make bench   the benchmarks (minutes)'
	@echo '  make check   ruff and the type checker only'

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("rlm needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Say: make PYTHON=/path/to/python3.11 ...")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: $(STAMP)
	@$(BIN)/rlm demo

check: $(STAMP)
	$(BIN)/ruff check rlm tests benchmarks examples
	$(BIN)/ruff format --check rlm tests benchmarks examples
	$(BIN)/mypy

test: check
	$(BIN)/python -m pytest

bench: $(STAMP)
	$(BIN)/python -m pytest benchmarks --benchmark-enable --benchmark-only

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .hypothesis .benchmarks
