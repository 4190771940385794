# Two commands are enough: `make up` starts Helix, `make test` runs its tests.
# Both set up a virtual environment of their own first, from locked and hashed packages.
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEER := bench/peers/.litellm
STAMP := $(VENV)/.installed-$(shell cat requirements/dev.txt pyproject.toml | cksum | cut -d' ' -f1)
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-annotate --no-header
INSTALL_EMBEDDER := $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
	-r requirements/embedder.txt

.DEFAULT_GOAL := help
.PHONY: help setup up test compat lint types imports drift check lock schema diagram generate \
	db-migrate migrate-up migrate-down migrate-create infra-core bench-gateway bench-litellm \
	rig-kill rig-limits rig-outage bench-tasks rig-tasks rig-tasks-queue clean embedder \
	bench-memory bench-memory-scale bench-retention rig-tenancy rig-rotate rig-debates \
	bench-debates rig-recovery rig-logins rig-migrator rig-upgrade rig-disk rig-fsync bench-knowledge
	bench-debates rig-recovery rig-migrator rig-upgrade rig-disk rig-fsync bench-knowledge \
	rig-upstream rig-leaving rig-hostile rig-contract rig-injection rig-outbound rig-timing

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Helix needs Python 3.11 or newer; set PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "setting up $(VENV) from locked packages: a minute or two, once" >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@$(INSTALL_EMBEDDER) || echo "the offline embedder is not installed: search works by words; make embedder tries again" >&2
	@rm -f $(VENV)/.installed-* && touch $@

setup: $(STAMP) ## make .venv with every locked package

embedder: setup ## the weights of the offline embedder (83 MB, no torch), hash pinned
	@$(INSTALL_EMBEDDER)

up: setup ## start Helix (PostgreSQL, migrations, first key, server); Ctrl-C stops it
	@exec $(BIN)/helix up $(ARGS)

infra-core: setup ## start only the embedded PostgreSQL, in the foreground
	@exec $(BIN)/helix db start

test: setup ## run every test, in parallel and at random order
	@$(BIN)/python -m compileall -q src  # the tests start hundreds of processes
	@$(BIN)/python -m pytest -n 2 $(ARGS)

compat: setup ## the official clients against Helix, npm's too (needs Node.js and npm)
	@npm ci --prefix compat/js --ignore-scripts --no-audit --no-fund
	@COMPAT=all $(BIN)/python -m pytest tests/compat $(ARGS)

lint: setup ## ruff: rules and formatting
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: setup ## mypy, strict
	@$(BIN)/mypy

imports: setup ## the layers of docs/architecture.md hold
	@$(BIN)/lint-imports --no-cache

drift: setup ## schema files, migrations and generated files agree
	@$(BIN)/python -m helix.operations.drift

check: lint types imports drift test ## all that CI runs

lock: setup ## resolve the dependencies anew into requirements/
	@$(LOCK) pyproject.toml --output-file requirements/runtime.txt $(UPGRADE)
	@$(LOCK) pyproject.toml --group dev --output-file requirements/dev.txt $(UPGRADE)
	@$(LOCK) bench/peers/litellm.in --output-file bench/peers/litellm.txt $(UPGRADE)

schema diagram generate: setup ## write every generated file from a database made by the migrations
	@$(BIN)/python -m helix.operations.drift --write

db-migrate: migrate-up ## apply every migration

migrate-up: setup ## apply every migration
	@$(BIN)/helix db upgrade

migrate-down: setup ## take the last migration back (YES=1 confirms deletions, WITHOUT_BACKUP=1)
	@$(BIN)/helix db downgrade $(if $(YES),--yes) $(if $(WITHOUT_BACKUP),--without-backup)

migrate-create: setup ## NAME=add_new_table: a new empty migration
	@test -n "$(NAME)" || { echo "usage: make migrate-create NAME=add_new_table" >&2; exit 2; }
	@$(BIN)/helix db revision -m "$(NAME)"

bench-litellm: ## LiteLLM's proxy in a virtual environment of its own, hash pinned, to measure beside
	@test -x $(PEER)/bin/python || $(PYTHON) -m venv $(PEER)
	@$(PEER)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes \
		-r bench/peers/litellm.txt

bench-gateway: setup ## CPU per call and throughput beside nginx and LiteLLM (BENCH=short: 3 minutes)
	@$(MAKE) --no-print-directory bench-litellm \
		|| echo "LiteLLM cannot be installed: measuring without it" >&2
	@$(BIN)/python -m bench.gateway $(if $(filter short,$(BENCH)),--short) $(ARGS)

rig-kill: setup ## kill -9 the gateway under load and compare ledgers
	@$(BIN)/python -m rigs.kill_gateway $(ARGS)

rig-limits: setup ## limits and budgets over four gateways, and a crash
	@$(BIN)/python -m rigs.limits $(ARGS)

rig-outage: setup ## kill, restart and stop PostgreSQL under load and compare ledgers
	@$(BIN)/python -m rigs.outage $(ARGS)

rig-upstream: setup ## repeated ids, and connections that hang half open (ARGS=--short)
	@$(BIN)/python -m rigs.upstream $(ARGS)

rig-leaving: setup ## SIGTERM under load, and clients that leave at any byte (ARGS=--short)
	@$(BIN)/python -m rigs.leaving $(ARGS)

rig-hostile: setup ## bodies and heads that are made to hurt (ARGS=--short)
	@$(BIN)/python -m rigs.hostile $(ARGS)

rig-contract: setup ## requests drawn from the OpenAPI document (ARGS=--short)
	@$(BIN)/python -m rigs.contract $(ARGS)

rig-injection: setup ## SQL in every place where a text can stand (ARGS=--short)
	@$(BIN)/python -m rigs.injection $(ARGS)

rig-outbound: setup ## addresses never to call, in every spelling (ARGS=--short)
	@$(BIN)/python -m rigs.outbound $(ARGS)

rig-timing: setup ## whether times tell which keys and accounts there are (ARGS=--short)
	@$(BIN)/python -m rigs.timing $(ARGS)

rig-migrator: setup ## kill the migrator before every statement, up and down (RIG=short)
	@$(BIN)/python -m rigs.kill_migrator $(if $(filter short,$(RIG)),--short) $(ARGS)

rig-upgrade: setup ## upgrade from every revision, by many at once, under load, beside old code (RIG=short)
	@$(BIN)/python -m rigs.upgrade $(if $(filter short,$(RIG)),--short) $(ARGS)

rig-disk: setup ## fill the volumes of data and WAL under load; needs root to mount (RIG=short)
	@$(BIN)/python -m rigs.disk_full $(if $(filter short,$(RIG)),--short) $(ARGS)

rig-fsync: setup ## let fdatasync fail under load; needs strace and root (RIG=short)
	@$(BIN)/python -m rigs.fsync_error $(if $(filter short,$(RIG)),--short) $(ARGS)

bench-tasks: setup ## the queue beside its peers (BENCH=short: under 5 minutes)
	@$(BIN)/python -m bench.tasks $(if $(filter short,$(BENCH)),--short) $(ARGS)

bench-memory: setup ## DATA=PATH: evidence recall of search (EMBEDDER=none: without vectors)
	@test -n "$(DATA)" || { echo "usage: make bench-memory DATA=PATH [EMBEDDER=none]" >&2; exit 2; }
	@$(BIN)/python -m bench.memory "$(DATA)" $(if $(EMBEDDER),--embedder $(EMBEDDER)) $(ARGS)

bench-retention: setup ## a simulated year with retention, beside DELETE (ARGS=--short)
	@$(BIN)/python -m bench.retention $(ARGS)

bench-knowledge: setup ## how fast documents are added and found
	@$(BIN)/python -m bench.knowledge $(ARGS)

bench-memory-scale: setup ## search among 1,000,000 memories of 10,000 users (ARGS=--short)
	@$(BIN)/python -m bench.memory_scale $(ARGS)

rig-recovery: setup ## recover to random commits, damage and fill the archive, take times (ARGS='--short')
	@$(BIN)/python -m rigs.recovery $(ARGS)

rig-tasks: setup ## kill -9 of workers and PostgreSQL under load
	@$(BIN)/python -m rigs.tasks_kill $(ARGS)

rig-tasks-queue: setup ## double claims, clocks, poison, silence, lost notifications
	@$(BIN)/python -m rigs.tasks_queue $(ARGS)

rig-tenancy: setup ## 100,000 attempts of one tenant on another, over HTTP and SQL (ARGS=--short)
	@$(BIN)/python -m rigs.tenancy $(ARGS)

rig-rotate: setup ## rotate 100,000 secrets under load and kill -9 (ARGS=--short)
	@$(BIN)/python -m rigs.rotate $(ARGS)

rig-logins: setup ## 200 wrong logins at once beside calls (ARGS=--short)
	@$(BIN)/python -m rigs.logins $(ARGS)

bench-debates: setup ## debates beside their critical path, and 200 at once
	@$(BIN)/python -m bench.debates $(ARGS)

rig-debates: setup ## kill -9 of a worker at every call of debates (ARGS=--short, --control)
	@$(BIN)/python -m rigs.debates_kill $(ARGS)

clean: ## remove the virtual environment and caches
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
