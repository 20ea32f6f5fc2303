# `make help` lists what there is.
CONFIG ?= configs/digits.flags
ARGS ?=
PYTHON ?= $(shell for p in python3.11 python3.10 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 11))' 2>/dev/null \
	&& echo $$p && break; done)
BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help train test lint format clean

help:  ## Show these targets.
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 10

$(READY): requirements.txt constraints.txt
	@test -n "$(PYTHON)" || { echo "error: Python 3.10 or 3.11 is needed and was not found:" \
		"install one from python.org, your package manager, or with 'pyenv install 3.11'," \
		"or name one as in 'make train PYTHON=/path/to/python3.11'." >&2; exit 1; }
	@echo "making .venv with $(PYTHON) and installing requirements.txt: 4 GB, some minutes ..."
	@rm -rf .venv && $(PYTHON) -m venv .venv
	@$(BIN)/pip install -qq --disable-pip-version-check -r requirements.txt
	@touch $@

train: $(READY)  ## Train a recipe; CONFIG=configs/x.flags and ARGS="--data=DIR" choose which.
	@$(BIN)/python tools/train.py --flagfile=$(CONFIG) $(ARGS)

test: $(READY)  ## Run the tests.
	@$(BIN)/python -m pytest --numprocesses=2 --dist=worksteal $(ARGS)

lint: $(READY)  ## Check style and format.
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

format: $(READY)  ## Fix what ruff can fix.
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

clean:  ## Remove the environment; runs stay.
	rm -rf .venv *.egg-info .pytest_cache .ruff_cache
