# Every target works on a fresh machine: it first makes $(VENV) and installs what it needs, under constraints.txt.
# A second run installs nothing, unless pyproject.toml or constraints.txt changed.

PYTHON ?= python3
VENV ?= .venv
# another index for torch alone, such as PyTorch's own index of CPU builds
TORCH_INDEX_URL ?=
MACHINE ?= $(shell uname -m)

# tests run in so many processes of one thread each
JOBS ?= 2

BENCHES ?= quito mini icformer summaries lm-infinite small-world

BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-input
PINNED = $(shell grep '^$(1)==' constraints.txt)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test test-slow test-gpu test-all lint format bench eval train docs clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

setup: $(VENV)/.stamp-dev  ## a virtual environment with everything that tests and lint need

demo: $(VENV)/.stamp-run  ## five questions over the sample passages, an HTML report; a small reader answers from summary vectors
	$(BIN)/python examples/demo.py

test: $(VENV)/.stamp-dev  ## the plain test suite: no GPU, no network, minutes at most
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS)

test-slow: $(VENV)/.stamp-dev  ## the tests marked slow
	$(BIN)/python -m pytest -m "slow and not gpu"

test-gpu: $(VENV)/.stamp-dev  ## the tests marked gpu
	$(BIN)/python -m pytest -m gpu

test-all: $(VENV)/.stamp-dev  ## everything that needs no GPU
	$(BIN)/python -m pytest -m "not gpu"

lint: $(VENV)/.stamp-dev  ## ruff, mypy --strict and the import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.stamp-dev  ## let ruff mend and format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(VENV)/.stamp-run  ## every benchmark but infor-coef, minutes each; JSON into benchmarks/results, an error where a target is missed
	@mkdir -p benchmarks/results
	@status=0; for name in $(BENCHES); do \
		echo "ctxcompress bench $$name"; \
		$(BIN)/ctxcompress bench $$name --json benchmarks/results/$$name-$(MACHINE).json || status=1; \
	done; exit $$status

eval: $(VENV)/.stamp-run  ## every method over the sets in CTXCOMPRESS_DATA; JSON into benchmarks/results, page into docs
	@mkdir -p benchmarks/results
	$(BIN)/ctxcompress eval --limit 120 --json benchmarks/results/eval-$(MACHINE).json --page docs

train: $(VENV)/.stamp-run  ## the weights of mini and its fast form from the sets in CTXCOMPRESS_DATA, resumable
	$(BIN)/ctxcompress train mini --out src/ctxcompress_integrations/weights/mini.safetensors
	$(BIN)/ctxcompress train mini-fast --out src/ctxcompress_integrations/weights/mini-fast.safetensors

docs: $(VENV)/.stamp-docs  ## the documentation, as HTML in docs/_build/html
	$(BIN)/python -m sphinx -W --keep-going docs docs/_build/html

clean:  ## remove what the targets above made, the virtual environment too
	rm -rf build dist docs/_build docs/examples demo.index demo-world.index demo-report.html
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find src tests examples benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} +
	if [ -e $(VENV)/.stamp-venv ]; then rm -rf $(VENV); fi

# Stamps are written last: an interrupted installation is taken up again by the next run.

$(VENV)/.stamp-venv:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit(f"Python 3.11 or newer is needed, $(PYTHON) is {sys.version.split()[0]}; name another: make PYTHON=python3.12")'
	@echo "making the virtual environment $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(INSTALL) "$(call PINNED,pip)"  # the pip that comes with Python 3.11 knows no dependency groups
	@touch $@

# torch comes first and alone: resolved beside other packages it may bring several gigabytes of CUDA libraries to a
# machine that has only a CPU
$(VENV)/.stamp-run: $(VENV)/.stamp-venv pyproject.toml constraints.txt
	@echo "installing $(call PINNED,torch)"
	@$(INSTALL) $(if $(TORCH_INDEX_URL),--index-url $(TORCH_INDEX_URL)) "$(call PINNED,torch)" -c constraints.txt
	@echo "installing the package with all its extras"
	@$(INSTALL) -e '.[all]' -c constraints.txt
	@touch $@

$(VENV)/.stamp-dev: $(VENV)/.stamp-run
	@echo "installing the tools for tests and lint"
	@$(INSTALL) --group test --group lint -c constraints.txt
	@touch $@

$(VENV)/.stamp-docs: $(VENV)/.stamp-run
	@echo "installing the tools for the documentation"
	@$(INSTALL) --group docs -c constraints.txt
	@touch $@
