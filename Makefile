# Every target installs what it needs first; a second call of `install` does nothing.
SHELL := /bin/bash
PROFILE ?=
PYTHON ?= python3
PY := .venv/bin/python
JOB ?= evaluate
CONFIG ?= conf/hle.yaml
ARGS ?=
ID ?=
SITE ?= local
NODES ?= 1
NAME ?=
.DEFAULT_GOAL := help
.PHONY: help install lock demo demo-rl check test test-all submit jobs logs stop
.PHONY: cluster-up cluster-status cluster-tunnel cluster-down preflight
side_by_side = --numprocesses 2
named = $(if $(NAME),--name $(NAME))
placed = --site $(SITE) --nodes $(NODES) $(named)

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: ## .venv from the pinned requirements; PROFILE=cpu or gpu overrides what the machine suggests
	@$(PYTHON) requirements/install.py $(PROFILE)

demo: install ## a small exam end to end on this machine: train a model, serve, predict, judge, score
	@$(MAKE) --no-print-directory runs/demo/model/kosen-merge.json
	@$(PY) -m jobs.evaluate --config conf/demo.yaml run=demo/$$(date +%Y_%m_%d_%H_%M_%S) $(ARGS)

# The demo's model is trained again when what it is made of has changed. Threads that spin would take CPU from Ray.
runs/demo/model/kosen-merge.json: $(addprefix jobs/demo/,exam.py model.py muon.py) jobs/tasks/prompts/hle_system.txt conf/demo/sft.yaml
	@$(PY) -m jobs.demo model --out runs/demo
	@OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE $(PY) -m jobs.sft --config conf/demo/sft.yaml run=$(CURDIR)/runs/demo/made/sft
	@$(PY) -m jobs.merge run=$(CURDIR)/runs/demo/made/sft out=runs/demo/model
	@touch $@

demo-rl: install ## fine-tune, examine, reward, examine again: a pipeline at toy scale; the score rises, and the reason is printed
	@$(PY) -m jobs.pipeline --config conf/pipelines/demo-rl.yaml run=$(CURDIR)/runs/demo-rl $(ARGS)
	@$(PY) -m jobs.demo explain runs/demo-rl

check: install ## formatting, lint, imports between folders, types
	@.venv/bin/ruff format --check .
	@.venv/bin/ruff check .
	@.venv/bin/lint-imports
	@.venv/bin/mypy

test: install ## the tests without the slow ones
	@.venv/bin/pytest $(side_by_side) -m "not slow"

test-all: install ## all tests, the slow ones too, as CI runs them after `make check`
	@.venv/bin/pytest $(side_by_side)

cluster-up: install ## SITE=osk NODES=2 [NAME=…] [ARGS="time=04:00:00 …"]: a Ray cluster; SITE=local is this machine
	@$(PY) -m cluster up $(placed) $(ARGS)

cluster-status: install ## [NAME=…]: nodes, GPUs, applications, jobs and time left
	@$(PY) -m cluster status $(named) $(ARGS)

cluster-tunnel: install ## [NAME=…]: the ssh line for your laptop
	@$(PY) -m cluster tunnel $(named)

cluster-down: install ## [NAME=…]: stop this cluster and nothing else
	@$(PY) -m cluster down $(named)

preflight: install ## SITE=osk NODES=2: check nodes and links without starting Ray
	@$(PY) -m cluster preflight $(placed) $(ARGS)

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
