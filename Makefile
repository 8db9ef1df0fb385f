# The few things one does with this folder; `make` alone lists them. Each is a script in scripts/ that can be read.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help run demo test simulate lint bench bench-check bench-schedule bench-store fuzz soak campaign services

# How long `make soak` and `make fuzz` are, how large the one is, and what the other feeds.
MINUTES ?= 5
SITES ?= 1000
TARGET ?= all
# How many kills `make campaign` takes; a SEED that it printed brings the same ones again.
KILLS ?= 100
SEED ?=

# How many seeds `make simulate` tries; SIMULATION_SEED=7 is one of them, told in full.
SEEDS ?= 20000

help: ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

run: ## watch the sites of sitemon.yaml, database in data/
	@scripts/run

demo: ## watch faulty sites of our own: every verdict, no network needed
	@scripts/demo

test: ## everything that is tested; installs what the tests need and says so
	@scripts/test

services: ## the servers that tests need, to try things by hand: PostgreSQL, Apache Kafka
	@scripts/services

simulate: ## checker, bus, writer and store against seeded faults: make simulate SEEDS=100000
	@SIMULATION_SEEDS=$(SEEDS) cargo test --locked -p sitemon --test simulation -- --nocapture

lint: ## format, clippy, shellcheck, dependencies, invariants
	@scripts/lint

bench: ## what things cost, beside baselines in the same minutes; in parts: bench-check, bench-schedule, bench-store
	@scripts/bench

bench-check bench-schedule bench-store:
	@scripts/bench $(@:bench-%=%)

fuzz: ## broken input for every reader: make fuzz MINUTES=5 TARGET=http1
	@scripts/fuzz --minutes $(MINUTES) $(TARGET)

soak: ## real web servers for a while: make soak MINUTES=5 SITES=1000
	@scripts/soak --minutes $(MINUTES) --sites $(SITES)

campaign: ## kill -9 and other trouble under load: make campaign KILLS=100 SEED=1
	@scripts/campaign --kills $(KILLS) $(if $(SEED),--seed $(SEED))
