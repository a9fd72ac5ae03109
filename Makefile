# Every command there is. `make` says what each does.
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash

# What `make up` is told; README.md says what each means.
export PORT ?= 8080
export VAR ?= var
export DETACH PROFILE PROVIDERS KAFKA REPLICAS CATALOGUE ENGINES
export ADMIN_EMAIL ADMIN_USERNAME ADMIN_PASSWORD

BIN := .venv/bin
JOBS ?= 2
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
  $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
UV := $(shell command -v uv 2>/dev/null)
PARTS := $(patsubst %/pyproject.toml,%,$(wildcard $(addsuffix /pyproject.toml,\
  proto kit gateway services/* worker deploy/embedded)))
PACKAGES := $(notdir $(patsubst %/__init__.py,%,$(wildcard $(PARTS:%=%/vlinders_*/__init__.py))))
PROTOS := $(shell find proto/vlinders -name '*.proto')

INSTALL := $(if $(UV),$(UV) pip install --python $(BIN)/python --compile-bytecode,\
  $(BIN)/python -m pip install --disable-pip-version-check --no-input)
PIN := uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
  --no-header --no-annotate --no-emit-index-url --no-emit-find-links

.PHONY: help up down backup setup proto test chaos bench soak check baseline edge requirements

help: ## This list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: .venv/parts proto ## Set up what is missing, start everything, print how to get in
	@$(BIN)/python -m vlinders_embedded up

down: ## End what `make up` started; all data stays in VAR
	@if test -e .venv/parts; then $(BIN)/python -m vlinders_embedded down; else echo "nothing is set up here"; fi

backup: ## Copy the running stack of VAR into the new folder TO, from which `make up VAR=…` starts
	@test -n "$(TO)" || { echo "make backup TO=folder"; exit 1; }
	@$(BIN)/python -m vlinders_embedded backup "$(TO)"

setup: .venv/parts .venv/dev .venv/envoy proto ## Set up everything, for development too

proto: proto/gen/vlinders.binpb ## Compile the contracts

test: setup ## Every test, on real parts
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup

chaos: setup ## Break the platform on a large scale, and print the figures; ONLY=draining takes one kind
	VLINDERS_CHAOS=long $(BIN)/python -m pytest $(or $(ONLY:%=tests/chaos/test_%.py),tests/chaos)

bench: setup ## What it costs, beside its peers, into bench/README.md; QUICK=1 ONLY="ours json-64" for a look
	$(BIN)/python -m bench

soak: setup ## Half an hour of mixed load, MINUTES=480 for more: does the memory grow?
	ONLY=soak $(BIN)/python -m bench

check: setup ## All that must hold: style, types, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy $(PACKAGES:%=-p %) -p bench
	@$(MAKE) --no-print-directory test

baseline: proto ## Write down the contracts as they are now: what breaks them is found from then on
	$(BIN)/python tests/contracts.py

edge: .venv/envoy ## Write the configuration of Envoy anew, from deploy/envoy
	PYTHONPATH=.venv/envoy $(BIN)/python deploy/envoy/edge.py

requirements: ## Pin all third-party versions anew, with hashes and no addresses; needs uv
	$(PIN) requirements/dev.in -o requirements/dev.txt
	$(PIN) requirements/run.in -c requirements/dev.txt -o requirements/run.txt
	$(PIN) requirements/envoy.in -c requirements/dev.txt -o requirements/envoy.txt

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Vlinders needs Python 3.11 or newer, as python3 or by make PYTHON=…"; exit 1; }
	@echo "== a virtual environment in .venv ($$($(PYTHON) --version))"
	@$(PYTHON) -m venv .venv || { rm -rf .venv; $(if $(UV),$(UV) venv --quiet --python $(PYTHON) .venv,\
	  echo "Python's venv is missing: on Debian and Ubuntu, apt install python3-venv"; exit 1); }

.venv/run: requirements/run.txt | $(BIN)/python
	@echo "== third-party packages: a minute or so, once"
	$(INSTALL) --require-hashes -r $<
	@touch $@

.venv/dev: requirements/dev.txt | .venv/run
	@echo "== packages for development"
	$(INSTALL) --require-hashes -r $<
	@touch $@

.venv/envoy: requirements/envoy.txt | .venv/dev
	@echo "== the types of Envoy's configuration"
	$(INSTALL) --target $@ --no-deps --require-hashes -r $<
	@touch $@

proto/gen/vlinders.binpb: $(PROTOS) proto/compile.py .venv/run
	@echo "== the contracts"
	$(BIN)/python proto/compile.py

.venv/parts: $(PARTS:%=%/pyproject.toml) .venv/run | proto/gen/vlinders.binpb
	@echo "== our own parts"
	$(INSTALL) --quiet --no-deps --no-build-isolation $(PARTS:%=-e %)
	@touch $@
