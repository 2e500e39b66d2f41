.DEFAULT_GOAL := help
SHELL := /bin/bash
MAKEFLAGS += --no-builtin-rules

# The distribution's own Python: the tests run the agent as an unprivileged user, who must be able to read it.
PYTHON ?= /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' adf_agent/__init__.py)
SOURCES = $(shell find adf_agent examples -name __pycache__ -prune -o -print 2>/dev/null)

# For Python 3.11 to 3.13 on amd64 and arm64, from whatever index pip is set up with: none is named in the files.
COMPILE = build/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --custom-compile-command "make lock" $(LOCK_OPTIONS)

# What builds the one package that has no wheel is installed before it, as pip would fetch that by itself without a hash.
INSTALL = $(BIN)/pip install --quiet --require-hashes --no-deps

# The tests are for the installed wheel: no Python started from here may import the source tree instead.
export PYTHONSAFEPATH := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup venv demo test lint bench deb rpm package-check faults fuzz load ami docs lock audit clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: setup venv ## roll two releases over a fleet under traffic, with AWS emulated
	@tools/with-docker $(BIN)/adf-sandbox demo

test: setup venv lint package-check ## everything that CI checks
	@tools/with-docker $(BIN)/pytest -n 3 --dist loadfile

lint: venv
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy adf_agent tests

bench: setup venv build/tree.stamp ## speed and memory, as ratios to a shell pipeline
	@tools/with-docker $(BIN)/python tests/bench

deb: build/tree.stamp ## the package for Debian and Ubuntu, into dist/
	@packaging/deb/build build/tree dist

rpm: build/tree.stamp ## the package for Amazon Linux, into dist/
	@packaging/rpm/build build/tree dist

package-check: deb rpm ## their sizes, the unit's security score, and that a second build gives the same bytes
	@packaging/check dist

ami: deb rpm ## bake the base AMI with packer and your AWS credentials: PACKER_ARGS='-only=amazon-ebs.debian-12'
	@packer init packaging/packer
	@packer build -var deb=dist/adf-agent_$(VERSION)_all.deb -var rpm=dist/adf-agent-$(VERSION)-1.noarch.rpm $(PACKER_ARGS) packaging/packer

build/tree.stamp: $(VENV)/requirements.stamp requirements.txt pyproject.toml LICENSE $(SOURCES) systemd/adf-agent.service \
		packaging/tree $(addprefix packaging/,agent.env copyright launcher models sbom sysusers.conf words)
	@packaging/tree build/tree
	@touch $@

faults: setup venv ## every stage broken in every way, the table into docs/reliability.md: FAULTS=image for some of them
	@PYTHONPATH=tests FAULTS=$${FAULTS:-all} tools/with-docker $(BIN)/pytest -p faulting -n 4 --dist load tests/faults

fuzz: venv ## a million inputs, sound and spoilt, over all that the agent reads: FUZZ_EXAMPLES=…, FUZZ_SEED=…
	@PYTHONPATH=tests FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-1000000} $(BIN)/pytest -p fuzzing -o timeout=0 -n 2 tests/fuzz

load: setup venv ## requests through a roll, and herds of agents against a throttling AWS; writes docs/reliability.md
	@PYTHONPATH=tests:tests/heavy:tests/bench tools/with-docker $(BIN)/python -m heavy --write docs/reliability.md

setup: ## install the system packages that are missing
	@tools/setup

venv: $(VENV)/wheel.stamp ## .venv with the pinned dependencies and the wheel built from this checkout

$(VENV)/requirements.stamp: requirements-dev.txt | setup
	@echo "venv: installing requirements-dev.txt into $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV)
	@sed -n '/^setuptools==/,/# via/p' requirements-dev.txt | $(INSTALL) --only-binary :all: --requirement /dev/stdin
	@$(INSTALL) --no-build-isolation --requirement requirements-dev.txt
	@touch $@

$(VENV)/wheel.stamp: $(VENV)/requirements.stamp pyproject.toml hatch_build.py packaging/words README.md LICENSE $(SOURCES)
	@echo "venv: building the wheel and installing it"
	@rm -rf build/wheel && mkdir -p build/wheel
	@SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct 2>/dev/null || date +%s)} \
		$(BIN)/python -m build --wheel --no-isolation --outdir build/wheel . >build/wheel.log 2>&1 || { cat build/wheel.log >&2; exit 1; }
	@$(BIN)/pip install --quiet --no-deps --no-index --force-reinstall build/wheel/*.whl
	@touch $@

docs: venv ## write docs/settings.md from the code
	@$(BIN)/python tools/reference >build/settings.md && mv build/settings.md docs/settings.md

lock: ## resolve the requirements files again
	@$(PYTHON) -m venv build/lock
	@build/lock/bin/pip install --quiet --require-hashes --no-deps --only-binary :all: --requirement requirements-lock.txt
	$(COMPILE) pyproject.toml --output-file requirements.txt
	$(COMPILE) pyproject.toml --all-extras --output-file requirements-dev.txt
	echo uv | $(COMPILE) - --output-file requirements-lock.txt

audit: $(VENV)/requirements.stamp ## ask osv.dev for known vulnerabilities of what is pinned; AUDIT_OPTIONS=--strict fails where it can't be asked
	@$(BIN)/python tools/audit $(AUDIT_OPTIONS) requirements.txt requirements-dev.txt

clean: ## remove what make has made
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
