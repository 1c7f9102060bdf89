.DEFAULT_GOAL := help
.PHONY: help setup demo test slow check fix docs bench

PYTHON ?= $(firstword $(foreach name,python3 python3.14 python3.13 python3.12 python3.11,$(shell \
	$(name) -c 'import sys; sys.version_info >= (3, 11) and print("$(name)")' 2>/dev/null)))
BIN := .venv/bin
STAMP := .venv/.stamp
PEERS := .venv-bench

help:  ## show this list
	@awk -F ':.*  ## ' '/^[a-z]+:.*  ## / { printf "  make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP)  ## make .venv from requirements.lock; nothing needs a compiler

$(STAMP): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed; install it, or say where it is: make setup PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than Python 3.11; name another: make setup PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv || { echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Setting up .venv from requirements.lock; with a fast network this takes one to three minutes."
	@$(BIN)/pip install -qq --disable-pip-version-check -r requirements.lock
	@$(BIN)/pip install -qq --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@

demo: setup  ## the main job on real input: a model learns a stream, and shows what it kept
	$(BIN)/everlearn demo

test: setup  ## the tests, but those that need minutes each; two at a time, each file in one process
	$(BIN)/pytest -n 2 --dist loadfile

slow: setup  ## the tests that train a real model for minutes
	$(BIN)/pytest -m slow

check: setup  ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: setup  ## what ruff can mend by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup  ## write the pages of docs/ that are made from the code
	$(BIN)/python -m everlearn.testing.documents

bench: $(PEERS)/.stamp  ## speed and memory beside the peers, in about half an hour; writes benchmarks/RESULTS.md
	OMP_NUM_THREADS=1 TQDM_DISABLE=1 $(PEERS)/bin/python -m benchmarks $(ARGS)

# The peers live in an environment of their own, with the lock's torch and transformers. Three packages that lm_eval
# asks for come as sources alone: pure Python, so that still nothing is compiled.
$(PEERS)/.stamp: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed; say where it is: make bench PYTHON=/path/to/python3" >&2; exit 1; }
	@test -x $(PEERS)/bin/pip || $(PYTHON) -m venv $(PEERS)
	@echo "Setting up $(PEERS) with TRL, PEFT and lm-eval; with a fast network this takes two to four minutes."
	@sed '/^-/d' requirements.lock > $(PEERS)/constraints.txt
	@$(PEERS)/bin/pip install -qq --disable-pip-version-check -c $(PEERS)/constraints.txt setuptools wheel
	@$(PEERS)/bin/pip install -qq --disable-pip-version-check --no-build-isolation -c $(PEERS)/constraints.txt \
		--only-binary :all: --no-binary sqlitedict,rouge-score,word2number,everlearn --editable '.[bench]'
	@touch $@
