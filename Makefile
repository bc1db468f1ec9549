# make test, make check, make demo, make bench: each does the set-up it needs, and is quick the second time.
SHELL := /bin/bash
.DEFAULT_GOAL := help

BIN := .venv/bin
# What servers get: remote/ship.py's list (tests/test_house.py compares).
SHIPPED := $(wildcard voltool/*.py) voltool/agent voltool/alone voltool/dumpfile voltool/tree voltool/volumes voltool/wire
# What to pass on: make test PYTEST_ARGS="tests/tree -x", make bench BENCH_ARGS="--scale 0.1 dump restore"
# One process more than there are processors: some tests wait (for a host that is silent, for cron).
PYTEST_ARGS ?= -n $(shell echo $$(($$(nproc) + 1))) --dist worksteal
BENCH_ARGS ?=
DEMO_ARGS ?=

# Tests start thousands of processes: what Python has compiled is kept.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup test check lint types layers python39 generate generated format demo bench clean soak

help:
	@echo "make setup    Debian packages (when root) and the virtual environment .venv"
	@echo "make test     all tests                       (PYTEST_ARGS=...)"
	@echo "make check    ruff, mypy, import-linter, vermin, and that what is generated is up to date"
	@echo "make generate man pages, completions, docs/commands.md and the tables of docs/config.md, out of the code"
	@echo "make demo     dumps, restores and a move between two throw-away hosts, then a week of nights in fast motion"
	@echo "make bench    compare with tar, dump, xfsdump, restic, borg; writes docs/benchmarks.md (BENCH_ARGS=...)"
	@echo "make soak     moves in which everybody is killed at random moments (SOAK_MINUTES=10, SOAK_SEED=...)"
	@echo "make format   format the code"

.venv/.packages: tools/apt-packages.txt
	tools/setup.sh packages base
	@mkdir -p .venv && touch $@

.venv/.installed: pyproject.toml tools/setup.sh | .venv/.packages
	tools/setup.sh venv
	@touch .venv/.packages $@

setup: .venv/.packages .venv/.installed

test: setup
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: lint types layers python39 generated

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

layers: setup
	$(BIN)/lint-imports

# The shipped part must run on Python 3.9: nothing newer may be used there.
python39: setup
	$(BIN)/vermin --quiet --no-tips --violations -t=3.9- $(SHIPPED)

generate: setup
	$(BIN)/python -m tools.generate

generated: setup
	$(BIN)/python -m tools.generate --check

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix-only --quiet .

demo: setup
	$(BIN)/python tools/demo.py $(DEMO_ARGS)

bench: setup
	tools/setup.sh packages base bench
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

soak: setup
	$(BIN)/python tools/soak.py

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
