# One command a task. `make help` lists them; `make setup` needs only Python 3.11 or 3.12.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# `make setup TORCH=cpu`: the small build of torch instead of the CUDA one. Its packages are not those
# of the lock file, so it comes from PyTorch's own index, with the version of the lock.
TORCH ?=

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## .venv with everything in it, and the command .venv/bin/fraudstream

$(READY): requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' \
	  || { echo "Python 3.11 or 3.12 is needed; name it with: make setup PYTHON=python3.11" >&2; exit 1; }
# Without uv it may be what a Ctrl-C left of one, with a python and no pip: it is made once more.
	@[ -x $(BIN)/uv ] || $(PYTHON) -m venv $(VENV) \
	  || { echo "python3 -m venv failed; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@[ -x $(BIN)/uv ] || $(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.5,<1'
ifeq ($(TORCH),cpu)
	@awk '/^[a-z0-9]/ {gpu = /^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z]+)==/} !gpu' requirements-dev.txt > $(VENV)/cpu.txt
	$(BIN)/uv pip sync --quiet --python $(BIN)/python $(VENV)/cpu.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --torch-backend cpu \
	  "$$(sed -n 's/^\(torch==[^ ]*\).*/\1/p' requirements-dev.txt)"
else
	$(BIN)/uv pip sync --quiet --python $(BIN)/python requirements-dev.txt
endif
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
# What every command imports, as bytecode: uv leaves that to the first start, and where Python is told
# to write none each start would compile torch anew, for some two seconds.
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -c 'import streams.live.app, streams.offline.run, model.finetune'
	@touch $@

demo: setup ## Kafka, Redis, two workers and a simulated stream; alerts, then a balance sheet
	$(BIN)/fraudstream demo

# Tests wait a good part of their time, so two at once; each of the two has servers of its own.
AT_ONCE ?= 2
test: setup ## all tests, on a real Kafka and a real Redis
	$(BIN)/python -m pytest --numprocesses $(AT_ONCE) --dist worksteal

check: setup ## style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

# These ask for a file that is not in this repository: benchmarks/README.md says which.
WITH_DATA := handbook handbook_live handbook_replay fresh_risk credit
bench: setup ## every benchmark that needs no data of yours, one table each
	for one in $(filter-out $(WITH_DATA:%=benchmarks/%.py) benchmarks/ground.py benchmarks/variants.py benchmarks/soak.py,$(wildcard benchmarks/*.py)); do \
	  echo "== $$one"; $(BIN)/python "$$one" || echo "$$one: goals missed, or failed" >&2; done
	for one in $(WITH_DATA); do echo "== benchmarks/$$one.py needs a data file: see benchmarks/README.md"; done

MINUTES ?= 60
soak: setup ## every fault with new seeds for MINUTES=60; results add up
	$(BIN)/python benchmarks/soak.py --minutes $(MINUTES)

bundle: setup ## train the shipped model again, after a change of the feature list
	$(BIN)/python -m streams.dev.shipped model/bundles/default

lock: setup ## resolve the dependencies again into the requirements files
	$(BIN)/uv pip compile --quiet --generate-hashes --no-annotate --no-emit-index-url --no-emit-find-links \
	  --custom-compile-command 'make lock' --all-extras pyproject.toml -o requirements-dev.txt
	$(BIN)/uv pip compile --quiet --generate-hashes --no-annotate --no-emit-index-url --no-emit-find-links \
	  --custom-compile-command 'make lock' --constraint requirements-dev.txt pyproject.toml -o requirements.txt

clean: ## the caches of the tools; the virtual environment and local services stay
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist

.PHONY: help setup demo test check bench bundle soak lock clean
