# make demo: from nothing to the figures. make test: from nothing to a tested checkout. make help: the rest.

PYTHON ?= python3
CORES ?= 2
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo test quick lint bench setup help clean

demo: $(READY) ## set up, and build every figure and table of config/config.yaml
	snakemake -c$(CORES)

test: $(READY) lint ## set up, and run every check and every test
	$(BIN)/pytest

quick: $(READY) lint ## the checks and the tests that take seconds
	$(BIN)/pytest -n $(CORES) -m "not slow and not slurm and not llm"

lint: $(READY) ## style, types and the workflow's own linters
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

bench: $(READY) ## measure training steps, the loop, extraction, the latent cache and the client (after demo)
	$(BIN)/python benchmarks/coders.py
	$(BIN)/python benchmarks/coders.py --memory
	$(BIN)/python benchmarks/coders.py --latents 4608
	$(BIN)/python benchmarks/coders_gpu.py
	$(BIN)/python benchmarks/loop.py
	$(BIN)/python benchmarks/extraction.py
	$(BIN)/python benchmarks/precision.py
	$(BIN)/python benchmarks/learning_rates.py
	$(BIN)/python benchmarks/cohort.py
	$(BIN)/python benchmarks/rates.py here
	$(BIN)/python benchmarks/stream_memory.py
	$(BIN)/python benchmarks/ablation.py
	$(BIN)/python benchmarks/latent_cache.py
	$(BIN)/python benchmarks/llm_client.py

setup: $(READY) ## create .venv with the pinned lock and the package

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed; on Debian or Ubuntu: apt-get install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,hub,serving]'
	touch $@

clean: ## remove the results, the logs and .venv
	rm -rf results logs $(VENV) .snakemake

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10
