# The front door: every target does the set-up it needs, under .local/, and skips what is done (dev/setup.sh).
# `make` alone lists the targets. PG=15 picks that PostgreSQL where a target names it; else it is 18.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
SUITES := lint unit pgrx-test failpoints regress isolation rpc pytest check-repo
SUBJECTS := attach tenants upgrade sales input ledger stripes retries rights crashes copies models clients audit \
	stats monitoring
.PHONY: help demo psql test bench $(SUITES) $(SUBJECTS) setup build install clean distclean

IN_ENV := . dev/env.sh && exec
BASE := venv cargo-pgrx pg18 pgrx-home
BUILD := dev/setup.sh $(BASE) && dev/build.sh 18
BUILD_PG := dev/setup.sh $(BASE) $(if $(filter 15,$(PG)),pg15) && dev/build.sh $(or $(PG),18)

help:       ## this list
	@awk -F ':.*## ' '/^[a-z].*:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile
	@echo "  make SUITE      one suite of the tests: $(SUITES); PG=15"
	@echo "  make SUBJECT    one folder of the suite pytest: $(SUBJECTS); PG=15"

demo:       ## replays real sales four ways and shows which of them lose units
	@$(BUILD)
	@$(IN_ENV) python -m demo.replay

psql:       ## a psql on a throwaway server, in a database with the extension; PG=15
	@$(BUILD_PG)
	@$(IN_ENV) python -m dev.server --pg $(or $(PG),18) --database shop

test:       ## all tests, on PostgreSQL 18 and, where available, 15 (fewer cases of each test); PG=15: all on that server
	@dev/test.sh all $(PG)

$(SUITES) $(SUBJECTS):
	@dev/test.sh $@ $(PG)

bench:      ## measures against a plain UPDATE and PL/pgSQL, about half an hour; QUICK=1: under 5, rough; PG=15
	@$(BUILD_PG)
	@dev/setup.sh bench
	@$(IN_ENV) python -m bench.run --pg $(or $(PG),18) $(if $(QUICK),--quick)

setup:      ## only what building and testing need: Python packages, cargo-pgrx, PostgreSQL 18 and 15, PgBouncer, Chromium, Prometheus, PostgREST, clients
	@dev/setup.sh $(BASE) pg15 pg-cron pgbouncer chromium monitoring rpc clients

build:      ## builds the extension and installs it into the PostgreSQL under .local/; PG=15
	@$(BUILD_PG)

install:    ## builds the extension and installs it into your own server: PG_CONFIG=/path/to/pg_config
	@[ -n "$(PG_CONFIG)" ] || { echo "error: PG_CONFIG is missing: make install PG_CONFIG=/path/to/pg_config" >&2; exit 1; }
	@dev/setup.sh venv cargo-pgrx pgrx-home
	@dev/build.sh "$(abspath $(PG_CONFIG))"

clean:      ## removes what was built
	rm -rf target .local/results .local/initdb .local/pycache .local/stamps/build-*

distclean:  ## removes what was built and all that the set-up installed
	rm -rf target .local tests/rpc/node_modules tests/clients/node_modules
