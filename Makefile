# `make demo` and `make test` work on a fresh machine with Python >= 3.10, venv and make.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2

BIN := $(VENV)/bin
READY := $(VENV)/.ready
export OMP_NUM_THREADS ?= 1
# Losses whose tiled kernels stand for the others: light, heavy, two sweeps, two vectors, outputs.
TILED := gce cross_entropy nfl trades jsd_beta token_stats

# Losses whose row kernels stand for the others where they are compiled for two GPUs more.
SPILLS := gce trades jsd_beta token_stats

# Losses whose counted instructions are recorded, likewise.
COUNTED := gce focal cross_entropy kd_forward_kl trades jsd_beta token_stats

.PHONY: demo test peers integrations sanitize distributed emulate campaign ordinary bench counts build site check lint format types layers aot wheel ci clean help

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "lossgen needs Python >= 3.10; choose one with make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group dev --editable ".[all]"
	@touch $@

demo: $(READY)  ## build one loss and train with three of them on real data
	$(BIN)/lossgen build specs/gce.yaml
	OMP_NUM_THREADS=2 $(BIN)/python examples/noisy_digits.py

test: $(READY)  ## the whole test suite
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(PYTEST_ARGS)

peers: $(READY)  ## compare with what others publish (downloads five packages)
	$(BIN)/python -m pip install --quiet --no-deps liger-kernel==0.8.5 torchmetrics==1.9.0 \
		lightning-utilities==0.15.3 timm==1.0.31 EMOLoss==0.0.3
	$(BIN)/python -m pytest tests/runtime/test_against_others.py

integrations: $(READY)  ## lossgen in transformers, TRL, PEFT, Lightning, timm (downloads them)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group integrations --editable ".[all,integrations]"
	$(BIN)/python -m pip install --quiet --no-deps timm==1.0.31
	$(BIN)/python -m pytest tests/integrations $(PYTEST_ARGS)

sanitize: $(READY)  ## every C program under the address, undefined-behaviour and thread sanitizers
	$(BIN)/python -m tests.runtime.sanitize

distributed: $(READY)  ## every loss over classes in shards, in four processes
	LOSSGEN_EVERY_LOSS=1 $(BIN)/python -m pytest tests/distributed $(PYTEST_ARGS)

emulate: $(READY)  ## every launch of six losses' row kernels, compiled for sm_80, without a GPU; WORD=...: some
	$(BIN)/python -m tests.emulation every "$(WORD)"

campaign: $(READY)  ## attack it at random for CAMPAIGN seconds a kind; resumes; see tests/campaign
	$(BIN)/python -m tests.campaign --seconds $(or $(CAMPAIGN),600)

ordinary: $(READY)  ## build ordinary formulas, and see that none takes a dearer program than before
	$(BIN)/python -m tests.ordinary --jobs $(JOBS)

bench: $(READY)  ## time the C backend on this machine, in under 5 minutes; writes benchmarks/results/cpu.*
	OMP_NUM_THREADS=2 $(BIN)/python benchmarks/cpu.py --out benchmarks/results

counts: $(READY)  ## count the kernels' instructions, without a GPU; writes benchmarks/results/counts_sm90.*; CHECK=1: compare
	$(BIN)/lossgen bench --static $(if $(CHECK),--check,$(COUNTED) --out) benchmarks/results

build: $(READY)  ## rebuild generated/ from specs/
	$(BIN)/lossgen build --all

site: $(READY)  ## the documentation site, in build/site/html (downloads its generator)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group site
	$(BIN)/python -m tools.site

check: $(READY)  ## is generated/ what specs/ says?
	$(BIN)/lossgen build --all --check

lint: $(READY)  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)  ## apply what lint would complain about
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(READY)  ## mypy
	$(BIN)/mypy lossgen

layers: $(READY)  ## the import rule
	$(BIN)/lint-imports

aot: $(READY)  ## compile every kernel for two GPUs, some for four, without one
	$(BIN)/lossgen build --all --check --aot sm_90,gfx942
	$(BIN)/lossgen build $(SPILLS) --check --aot sm_80,sm_100
	$(BIN)/lossgen build $(TILED) --check --aot sm_90,gfx942 --tiled

wheel: $(READY)  ## build the wheel, install it elsewhere, run a loss from it
	VENV=$(VENV) bash .ci/wheel

ci: $(READY)  ## everything CI runs
	bash .ci/run

clean:  ## remove the environment and every cache
	rm -rf $(VENV) build dist .hypothesis .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
