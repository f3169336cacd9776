# Every target installs what it needs first; a second call of `install` does nothing.
SHELL := /bin/bash
PROFILE ?=
PYTHON ?= python3
PY := .venv/bin/python
JOB ?= evaluate
CONFIG ?= conf/hle.yaml
ARGS ?=
ID ?=
.DEFAULT_GOAL := help
.PHONY: help install lock demo check test test-all submit jobs logs stop

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: ## .venv from the pinned requirements; PROFILE=cpu or gpu overrides what the machine suggests
	@$(PYTHON) requirements/install.py $(PROFILE)

demo: install ## a small exam end to end on this machine: train a model, serve, predict, judge, score
	@$(PY) -m jobs.demo_model --out runs/demo/model
	@$(PY) -m jobs.evaluate --config conf/demo.yaml run=demo/$$(date +%Y_%m_%d_%H_%M_%S) $(ARGS)

check: install ## formatting, lint, types
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/mypy

test: install ## the tests, 20 minutes at most
	@.venv/bin/pytest -m "not slow"

test-all: install ## all tests, the long ones too, 60 minutes at most
	@.venv/bin/pytest

submit: install ## JOB=evaluate CONFIG=conf/hle.yaml ARGS="key=value …": as a Ray Job; ends with the job's exit code
	@$(PY) -m orchestrator.submit submit $(JOB) --config $(CONFIG) $(ARGS)

jobs: install ## the cluster's jobs
	@$(PY) -m orchestrator.submit list

logs: install ## ID=…: what a job printed, and prints until it ends
	@$(PY) -m orchestrator.submit logs $(ID)

stop: install ## ID=…: stop a job; what it finished stays recorded
	@$(PY) -m orchestrator.submit stop $(ID)

lock: install ## renew requirements/*.txt from pyproject.toml
	@$(PY) requirements/lock.py
