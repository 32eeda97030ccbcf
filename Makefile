# `make` lists the commands and installs nothing. Every command sets itself up: .venv is made and filled when it
# is missing or pyproject.toml has changed.
PYTHON ?= python3
BIN := .venv/bin
NEEDS := $(shell sed -n 's/^requires-python = ">=\(.*\)"/\1/p' pyproject.toml)
# The files of search/commands and its room are the list of commands.
FILES := $(wildcard search/commands/[a-z]*.py search/commands/judging/[a-z]*.py)
COMMANDS := $(sort $(subst _,-,$(notdir $(basename $(FILES)))))
# Threads that wait must not spin: timings on a busy machine depend on it.
export OMP_WAIT_POLICY := PASSIVE
ARGS ?=

.PHONY: help $(COMMANDS) test test-all soak lowest lint docs notebooks bench clean

help:
	@echo 'make COMMAND ARGS="key=value ...", for instance: make search ARGS="target=titan_rtx_b64 latency_limit_ms=20"'
	@echo
	@for name in $(COMMANDS); do printf '  %-14s %s\n' $$name \
	  "$$(sed -n '1s/^"""\([^:.]*\).*/\1/p' $$(ls $(FILES) | grep "/$$(echo $$name | tr - _).py"))"; done
	@echo
	@echo 'for developers: make test, make test-all, make soak, make lowest, make lint, make docs, make notebooks, make bench, make clean'

$(COMMANDS): .venv/.run
	@$(BIN)/python -m search $@ $(ARGS)

# On all cores; what takes ten seconds or more waits for test-all.
test: .venv/.dev
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not slow" $(ARGS)

# A fault at every change of a disk is tried with PROOFS=all, else a sample of the day.
test-all: .venv/.dev
	$(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

# Kills commands at random moments and checks what they leave.
MINUTES ?= 10
soak: .venv/.dev
	$(BIN)/python -m tests.faults.soak $(MINUTES)

# The quick tests with the oldest releases that pyproject.toml allows, in an environment of its own (6 GB).
lowest: .venv-lowest/.ready
	.venv-lowest/bin/python -m pytest -n auto --dist worksteal -m "not slow" tests/unit tests/contract $(ARGS)

.venv-lowest/.ready: pyproject.toml
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/pip install -q uv
	.venv-lowest/bin/uv pip install -q --python .venv-lowest/bin/python --resolution lowest-direct -e '.[all,test]'
	@touch $@

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/.dev
	$(BIN)/mkdocs build --quiet --site-dir runs/site

# The notebooks run in a folder of their own; what they write is thrown away.
notebooks: .venv/.dev
	folder=$$(mktemp -d) && cp docs/notebooks/*.ipynb $$folder && root=$$PWD && cd $$folder && \
	  PATH="$$root/$(BIN):$$PATH" python -m pytest -q --nbmake -p no:cacheprovider . && rm -rf $$folder

bench: .venv/.dev
	$(BIN)/python -m benchmarks.ofa_search $(ARGS)
	$(BIN)/python -m benchmarks.speed

.venv/bin/pip:
	@$(PYTHON) -c 'import sys; need = tuple(map(int, "$(NEEDS)".split("."))); sys.version_info >= need or \
	  sys.exit("error: needs Python >= $(NEEDS), found %d.%d ($(PYTHON)): give another, PYTHON=python$(NEEDS)" % \
	  sys.version_info[:2])'
	$(PYTHON) -m venv .venv

.venv/.run: pyproject.toml | .venv/bin/pip
	$(BIN)/pip install -q -e '.[all]'
	@touch $@

.venv/.dev: pyproject.toml | .venv/bin/pip
	$(BIN)/pip install -q -e '.[dev]'
	@touch $@ .venv/.run

clean:
	rm -rf .venv
