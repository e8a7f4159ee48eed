# A newcomer needs two targets: `make run` and `make test`. `make help` lists the rest.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
TOOLS := .tools
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)

ENV_READY := $(VENV)/ready
NPM_READY := $(TOOLS)/npm/ready
LITELLM_READY := $(TOOLS)/litellm/ready
ENGINE_READY := $(TOOLS)/engine-ready
ENGINE_PACKAGES := buildah runc debootstrap
SOURCES := crds operator router worker-image
PYTEST := $(BIN)/python -m pytest
# Not exported to all: what `make run` starts, and so the commands that an agent runs, inherit the environment.
WITH_TESTS := PYTHONPATH=$(CURDIR)/tests $(BIN)/python
CLUSTER := $(WITH_TESTS) -m cluster.node
NAMESPACE ?= default
HELM_ARGS ?=

##@ Use

.PHONY: run
run: $(ENV_READY) ## Serve the endpoint on http://localhost:3000/v1 (without a key: a scripted demo model)
	@exec $(BIN)/python -m claude_router

.PHONY: dev
dev: $(ENV_READY) ## The same, started anew at every change of the sources
	@exec $(BIN)/watchfiles --filter python --sigint-timeout 30 '$(BIN)/python -m claude_router' $(SOURCES)

##@ Use on Kubernetes

.PHONY: cluster
cluster: $(ENV_READY) ## Have a test cluster on this machine; prints its kubeconfig's path
	@$(CLUSTER) up

.PHONY: cluster-down
cluster-down: $(ENV_READY) ## Stop it, and leave nothing but the cache of programs
	@$(CLUSTER) down

.PHONY: kubeconfig
kubeconfig: $(ENV_READY) ## Print the kubeconfig's path
	@$(CLUSTER) kubeconfig

.PHONY: images
images: $(ENV_READY) ## Build all images, and bring them to the cluster
	@$(CLUSTER) images

.PHONY: deploy
deploy: images ## Install the chart with them, and wait (NAMESPACE=default HELM_ARGS='--set anthropic.existingSecret=anthropic')
	@helm=$$($(CLUSTER) tool helm); sources=$$($(SOURCES_HASH)); KUBECONFIG=$$($(CLUSTER) kubeconfig) \
		$$helm upgrade --install claude-code-api charts/claude-code-api --namespace $(NAMESPACE) --create-namespace \
		--set image.registry=$${CLUSTER_REGISTRY:-localhost} --set image.tag=dev \
		--set-string "router.podAnnotations.sources=$$sources,operator.podAnnotations.sources=$$sources" \
		--set-string "pool.podTemplate.metadata.annotations.sources=$$sources" --wait --timeout 5m $(HELM_ARGS)

# The tag is always `dev`, so what changed is said in an annotation, which makes pods be replaced.
SOURCES_HASH := find $(SOURCES) requirements-*.lock -type f -not -name '*.pyc' | LC_ALL=C sort | xargs cat | sha256sum | cut -c -16

##@ Test

.PHONY: test
test: check ## Everything: checks, unit tests, real CLI, container, cluster
	@$(MAKE) -j2 test-unit cluster-programs
	@$(MAKE) test-local test-container test-cluster

# On a new machine the test cluster's programs take ten minutes to build, and unit tests leave a core idle.
.PHONY: cluster-programs
cluster-programs: $(ENV_READY)
	@if [ "$${CI:-}" = true ] && command -v go >/dev/null; then nice -n 19 env $(CLUSTER) build; fi

.PHONY: check
check: $(ENV_READY) ## Format, lint, types, layering, lock and documentation
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(PYTEST) -q tests/test_layering.py tests/test_tree.py

.PHONY: test-unit
test-unit: $(ENV_READY) ## Fast tests: no CLI, no network but loopback
	@$(PYTEST) -q tests/crds tests/operator tests/router tests/worker tests/hostile

.PHONY: test-local
test-local: $(ENV_READY) $(NPM_READY) ## The real CLI with real clients and a scripted model
	@$(PYTEST) -q tests/local tests/test_readme.py tests/bench tests/bench_cluster

.PHONY: test-container
test-container: $(ENV_READY) $(ENGINE_READY) ## The image, built with buildah and run; the compose file
	@$(PYTEST) -q tests/container

# A cluster that was up stays up. One that was not is stopped, and the tests of the node boot one more, to crash it.
NODE_TESTS := tests/cluster/test_node.py tests/cluster/test_provider.py
.PHONY: test-cluster
test-cluster: $(ENV_READY) ## On a cluster: resources, chart, operator, router; and the test cluster itself
	@if $(CLUSTER) kubeconfig >/dev/null 2>&1; then ours=; else ours=yes; trap '$(CLUSTER) down' EXIT; fi; \
	status=0; $(CLUSTER) up >/dev/null || status=$$?; \
	if [ $$status = 3 ] && [ "$${CI:-}" != true ]; then exit 0; fi; \
	[ $$status = 0 ] || exit $$status; \
	$(CLUSTER) images >/dev/null; \
	$(PYTEST) -q tests/cluster $(NODE_TESTS:%=--ignore=%); \
	if [ -n "$$ours" ]; then $(CLUSTER) down; fi; \
	$(PYTEST) -q $(NODE_TESTS)

.PHONY: bench
bench: $(ENV_READY) $(NPM_READY) $(LITELLM_READY) ## Every figure beside its limit; writes docs/performance.md
	@$(WITH_TESTS) -m bench

# Like the tests: a cluster that was up stays up. An unset BENCH_ARGS measures everything.
BENCH_ARGS ?=
.PHONY: bench-cluster
bench-cluster: $(ENV_READY) ## The same on a cluster, each figure beside its floor in bare pods
	@if $(CLUSTER) kubeconfig >/dev/null 2>&1; then :; else trap '$(CLUSTER) down' EXIT; $(CLUSTER) up >/dev/null; fi; \
	$(CLUSTER) images >/dev/null; \
	$(WITH_TESTS) -m bench_cluster $(BENCH_ARGS)

##@ Maintain

.PHONY: format
format: $(ENV_READY) ## Format the sources, and mend what the linter can
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --quiet --fix .

.PHONY: docs
docs: $(ENV_READY) ## Write the settings table of the README anew
	@$(WITH_TESTS) -m readme

.PHONY: lock
lock: $(ENV_READY) ## Resolve all dependencies anew into the lock files
	@$(BIN)/uv pip compile pyproject.toml --extra dev $(LOCK) -o requirements.lock
	@for part in local "router --extra clouds" operator worker; do \
		$(BIN)/uv pip compile pyproject.toml --extra $$part $(LOCK) -c requirements.lock \
			-o requirements-$${part%% *}.lock; done
	@$(BIN)/uv pip compile tests/bench/litellm.in --override tests/bench/litellm.override $(LOCK) -o tests/bench/litellm.lock
	@cd tests/npm && npm install --package-lock-only --omit-lockfile-registry-resolved --no-audit --no-fund --silent

LOCK := --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet --upgrade

.PHONY: clean
clean: ## Remove what the targets above made in this folder
	@rm -rf $(VENV) $(TOOLS) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist

.PHONY: help
help: ## This list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} \
		/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

# --- what the targets need -------------------------------------------------------------------------------------------

$(ENV_READY): requirements.lock pyproject.toml
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 or later is needed (set PYTHON=…)." >&2; exit 1; }
	@echo "making the environment in $(VENV) …"
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(NPM_READY): tests/npm/package-lock.json
	@command -v npm >/dev/null || { echo "Node.js with npm is needed for the client tests." >&2; exit 1; }
	@echo "installing the clients' packages in $(TOOLS)/npm …"
	@mkdir -p $(TOOLS)/npm && cp tests/npm/package.json tests/npm/package-lock.json $(TOOLS)/npm/
	@cd $(TOOLS)/npm && npm install --no-audit --no-fund --silent
	@touch $@

$(LITELLM_READY): tests/bench/litellm.lock
	@echo "installing LiteLLM in $(TOOLS)/litellm …"
	@rm -rf $(TOOLS)/litellm && mkdir -p $(TOOLS) && $(PYTHON) -m venv $(TOOLS)/litellm
	@$(TOOLS)/litellm/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r $<
	@touch $@

# Where we may install nothing, the tests say what they lack: a developer's skip, CI's fail.
$(ENGINE_READY):
	@if [ $$(command -v $(ENGINE_PACKAGES) | wc -l) -lt 3 ] && [ $$(id -u) = 0 ] && command -v apt-get >/dev/null; then \
		echo "installing $(ENGINE_PACKAGES) …"; \
		apt-get update -qq && apt-get install -qq --yes --no-install-recommends $(ENGINE_PACKAGES) >/dev/null; fi
	@mkdir -p $(TOOLS) && touch $@
