# Two commands on a fresh machine with Python 3.11 or newer and make:
#   make demo    sets up what it needs and runs the main job on every side
#   make test    sets up what it needs and runs every check
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python -m
# One stamp for the whole set-up, made last: it is made again only when pyproject.toml, PYTHON= or the place changes.
STAMP := $(VENV)/.installed
CODE := rlm tests benchmarks examples

WHICH := import sys; print(sys.base_prefix + " " + sys.version)
FIT := import sys; \
sys.version_info >= (3, 11) or sys.exit("rlm needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": make PYTHON=python3.11 ..."); \
import importlib.util as u; \
(u.find_spec("venv") and u.find_spec("ensurepip")) or sys.exit("this Python has no venv or no ensurepip (on Debian: apt install python3-venv), or take another: make PYTHON=...")

.DEFAULT_GOAL := help
.PHONY: help demo test test-hostile check bench eval soak crash clean anew

help:
	@sed -n '1,3s/^# \{0,1\}//p' Makefile
	@echo '  make check   ruff and the type checker only'
	@echo '  make test-hostile   the hostile cells as root and not, with namespaces and without (minutes; as root)'
	@echo '  make bench   the benchmarks (minutes)'
	@echo '  make eval    generated tasks of up to 10M tokens with an exact oracle, on both sides (two minutes)'
	@echo '  make crash   kills runs at 50 random moments, resumes them, and counts what is asked again (minutes)'
	@echo '  make soak    100,000 queries to a server that fails at random (ten minutes at most)'
	@echo '  make clean   removes what the others made'

# Set up anew where the tree has moved (a venv holds its own path) ...
ifneq ($(wildcard $(STAMP)),)
ifneq ($(shell cat $(STAMP)),$(CURDIR))
$(STAMP): anew
endif
endif
# ... and where a Python is asked for by name that is not the one set up before.
ifneq ($(and $(filter-out file,$(origin PYTHON)),$(wildcard $(STAMP))),)
ifneq ($(shell { "$(PYTHON)" -c '$(WHICH)'; } 2>&1),$(shell { $(VENV)/bin/python -c '$(WHICH)'; } 2>&1))
$(STAMP): anew
endif
endif

$(STAMP): pyproject.toml
	@command -v "$(PYTHON)" >/dev/null || { echo 'there is no command "$(PYTHON)": rlm needs Python 3.11 or newer (make PYTHON=python3.11 ...)' >&2; exit 1; }
	@"$(PYTHON)" -c '$(FIT)'
	@echo 'setting up $(VENV) (about a minute, once)'
	@rm -f $@
	@$(if $(filter anew,$^),false,$(RUN) pip --version >/dev/null 2>&1) || "$(PYTHON)" -m venv --clear $(VENV)
	@$(RUN) pip install -qq --disable-pip-version-check -e '.[dev]'
	@echo '$(CURDIR)' > $@

demo: $(STAMP)
	@$(RUN) rlm demo

check: $(STAMP)
	$(RUN) ruff check $(CODE)
	$(RUN) ruff format --check $(CODE)
	$(RUN) mypy

# auto: one process more than there are cores (tests/conftest.py). worksteal: the tests of a file mostly stay together
# with its fixtures. Each of the processes and hundreds of commands would compile all anew where no bytecode is kept.
test: check
	env -u PYTHONDONTWRITEBYTECODE $(RUN) pytest -n auto --maxprocesses 4 --dist worksteal $(ARGS)

# The corpus four times: as root and as another user, with namespaces and with a filter that refuses them. Needs root.
test-hostile: $(STAMP)
	$(VENV)/bin/python tests/hostile/run.py --configuration all $(ARGS)

bench: $(STAMP)
	$(RUN) pytest benchmarks -q --benchmark-enable --benchmark-only --benchmark-sort=name --benchmark-columns=median,min,max,iqr,rounds $(ARGS)

eval: $(STAMP)
	$(VENV)/bin/python tests/eval/eval_large.py $(ARGS)

# Runs killed by SIGKILL at 50 random moments and resumed, over all sides: about five minutes.
crash: $(STAMP)
	$(VENV)/bin/python tests/record/crash.py $(ARGS)

soak: $(STAMP)
	$(RUN) benchmarks.soak $(ARGS)

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .hypothesis .benchmarks
