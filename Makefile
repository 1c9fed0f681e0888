# What one does with this project. Recipes are one line each; the work is in the programs they call.

SHELL := /bin/sh
.DEFAULT_GOAL := help

# Settings that lie around in the environment and must not decide where a demo or a test works or mails to. What stands in
# an `.env` file does not count either: `exec` gives its command own servers, and these win over the file.
STRAY := DATABASE_URL REDIS_URL REDIS_CACHE_URL REDIS_RATE_LIMIT_URL REDIS_BALANCES_URL $(filter SMTP_% PG%,$(.VARIABLES))
CLEAN := env $(addprefix -u ,$(sort $(STRAY))) SQLX_OFFLINE=true
CARGO ?= cargo
# The whole workspace is always built in one piece: cargo would compile dependencies anew for a part with fewer features.
RUNNER := $(or $(CARGO_TARGET_DIR),target)/debug/local-runner

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

.PHONY: servers
servers: ## Postgres and Redis on this machine, installed if they are missing
	@sh infra/install-servers.sh

.PHONY: build
build: ## everything, in the one profile that demo and tests use
	@$(CLEAN) $(CARGO) build --workspace

.PHONY: demo
demo: servers build ## a campaign from recipients file to receipt, on servers and an inbox of its own
	@$(CLEAN) $(RUNNER) --runner demo exec --fresh --parameter RetryFirstSeconds=5 -- sh examples/demo.sh

.PHONY: test
test: servers build ## the whole suite, on servers of its own
	@$(CLEAN) $(RUNNER) --runner test exec --services-only -- $(CARGO) test --workspace --no-fail-fast
	@sh infra/tests/install-servers.sh

.PHONY: run
run: build ## the bundle in the foreground, for development; DATABASE_URL and REDIS_URL count here
	@$(RUNNER) up

# What is measured: mails, connections and rounds; WIRE= leaves out the round trips to sinks near and far; a sink of your own as SINK=host:port; JSON=1 for scripts.
MAILS ?= 20000
CONNECTIONS ?= 32
ROUNDS ?= 3
WIRE ?= 1
SINK ?=

# The binary is run by its path: `cargo run` would pick other features of its dependencies and build them anew.
.PHONY: bench
bench: servers ## mails per second through the whole pipeline, beside a bare SMTP blast (MAILS= CONNECTIONS= ROUNDS= WIRE= SINK= JSON=1)
	@$(CLEAN) $(CARGO) build --profile measured --workspace --bins
	@$(CLEAN) "$${CARGO_TARGET_DIR:-target}/measured/bench" --mails $(MAILS) --connections $(CONNECTIONS) \
		--rounds $(ROUNDS) $(if $(WIRE),--wire) $(if $(SINK),--sink $(SINK)) $(if $(JSON),--json)

.PHONY: check-cloud
check-cloud: ## the template and the deployed form: cfn-lint, sam validate, sam build
	@$(CLEAN) sh infra/check-cloud/run.sh

# Which cells: SEED= repeats a choice, ONLY= takes those whose description contains it, LANES= runners at once. HURRY=1
# does not wait for the schedule's minute, so what is measured lacks it.
SEED ?=
ONLY ?=
LANES ?= 6
HURRY ?= 1

.PHONY: crash-matrix
crash-matrix: servers build ## strike a campaign at every effect, in every way, and print the table (SEED= ONLY= LANES= HURRY=)
	@$(CLEAN) NIGHTSHIFT_BIN_DIR="$(dir $(RUNNER))" $(dir $(RUNNER))crash-matrix --lanes $(LANES) \
		$(if $(SEED),--seed $(SEED)) $(if $(ONLY),--only "$(ONLY)") $(if $(filter 1,$(HURRY)),--hurry)

.PHONY: demo-hostile
demo-hostile: servers build ## the demo while queues are purged, Redis forgets, Postgres dies and the runner is killed
	@$(CLEAN) NIGHTSHIFT_BIN_DIR="$(dir $(RUNNER))" $(dir $(RUNNER))demo-hostile

.PHONY: fmt
fmt: ## formatting is as rustfmt would have it
	@$(CARGO) fmt --all --check

.PHONY: clippy
clippy: ## no lint complains
	@$(CLEAN) $(CARGO) clippy --workspace --all-targets -- -D warnings

.PHONY: doc
doc: ## the documentation builds without a warning
	@RUSTDOCFLAGS='-D warnings' $(CLEAN) $(CARGO) doc --workspace --no-deps --quiet

.PHONY: sqlx-check
sqlx-check: servers build ## the committed descriptions of queries fit the schema
	@$(CLEAN) $(RUNNER) --runner sqlx exec --fresh -- sh infra/sqlx.sh check

.PHONY: sqlx
sqlx: servers ## describe the queries anew, after one of them or the schema has changed
	@$(CLEAN) $(RUNNER) --runner sqlx exec --fresh --services-only -- sh infra/sqlx.sh prepare
