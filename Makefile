# From a clean clone: `make reproduce`. Needs Python 3.11 or newer and make; `make` alone lists the targets.

PYTHON ?= python3
ARGS ?=
WING ?=
VENV := .venv
STAMP := $(VENV)/.installed
IN_VENV := PATH="$(CURDIR)/$(VENV)/bin:$$PATH"
PYTEST := $(IN_VENV) OMP_NUM_THREADS=1 pytest -n logical --maxprocesses 4 --dist worksteal
UV := uv==0.13.9

.DEFAULT_GOAL := help
.PHONY: help setup reproduce check test lint test-slurm test-kills golden bench format lock docs dist clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo "  WING=learn names a folder of tests/ for check."
	@echo "  ARGS=\"...\" adds options to the command a target runs; PYTHON=python3.12 names another interpreter."

setup: $(STAMP) ## install the pinned environment into .venv (first time: about 4 minutes, 6 GB)

reproduce: $(STAMP) ## run the pipeline: results/digits/report.html, its tables and figures
	$(IN_VENV) s4s run $(ARGS)

check: lint ## lint, then the tests of what changed since main, or of one wing: make check WING=learn
	@tests=$$($(VENV)/bin/python tools/wings.py $(WING)) && echo "tests: $${tests:-none, nothing has changed}" && \
	if [ -n "$$tests" ]; then $(PYTEST) $$tests $(ARGS); fi

test: lint ## check style, types and workflow, then run all tests
	$(PYTEST) $(ARGS)

lint: $(STAMP) ## check style, types and workflow only
	$(IN_VENV) ruff check .
	$(IN_VENV) ruff format --check .
	$(IN_VENV) mypy
	$(IN_VENV) lint-imports --no-logo
	$(IN_VENV) snakefmt --check Snakefile workflow
	$(IN_VENV) snakemake --lint

test-slurm: $(STAMP) ## run the tests of broken runs, and those on a SLURM started here (Debian, root; else skipped, saying why)
	$(IN_VENV) tests/slurm/run.sh $(ARGS)

test-kills: $(STAMP) ## kill a small run 200 times at random; ARGS=20 for as many
	$(IN_VENV) OMP_NUM_THREADS=1 python tests/shared/kills.py $(ARGS)

golden: $(STAMP) ## compare with the official solver implementations' numbers in DIR
	@test -d "$(DIR)" || { echo "make golden: name the folder of golden files, as in: make golden DIR=golden" >&2; exit 2; }
	$(IN_VENV) S4S_GOLDEN="$(DIR)" pytest tests/core/test_golden.py $(ARGS)

bench: $(STAMP) ## measure speed and memory against their floors: results/benchmark.md
	$(IN_VENV) OMP_NUM_THREADS=1 python benchmarks/bench.py $(ARGS)

format: $(STAMP) ## rewrite the code in the project's format
	$(IN_VENV) ruff check --fix .
	$(IN_VENV) ruff format .
	$(IN_VENV) snakefmt Snakefile workflow

lock: ## write requirements.lock and environment.yml from pyproject.toml (ARGS=--upgrade moves the pins)
	dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && \
	$(PYTHON) -m venv "$$dir" && "$$dir/bin/python" -m pip install -qq --disable-pip-version-check $(UV) packaging && \
	"$$dir/bin/uv" pip compile pyproject.toml --quiet --all-extras --group dev --group docs --universal --python-version 3.11 \
	    --fork-strategy fewest --generate-hashes --no-annotate --no-emit-index-url --no-emit-find-links \
	    --custom-compile-command "make lock" --output-file requirements.lock $(ARGS) && \
	"$$dir/bin/uv" pip compile examples/requirements.in --quiet --no-deps --universal --python-version 3.11 \
	    --generate-hashes --no-annotate --no-emit-index-url --no-emit-find-links \
	    --custom-compile-command "make lock" --output-file examples/requirements.txt $(ARGS) && \
	"$$dir/bin/python" tools/environment.py

docs: $(STAMP) ## make the documentation site, in site/, without a warning
	$(IN_VENV) python tools/site.py
	$(IN_VENV) NO_MKDOCS_2_WARNING=1 mkdocs build --quiet --config-file build/mkdocs.yml

dist: $(STAMP) ## build the wheel and the sdist into dist/
	@mkdir -p dist && rm -f dist/s4s-*
	@$(VENV)/bin/python -c 'from flit_core.buildapi import build_sdist, build_wheel; \
	    print(*("dist/" + build("dist") for build in (build_sdist, build_wheel)), sep="\n")'
	@chmod a+r dist/s4s-*

clean: ## remove the environment and the tools' caches; results stay
	rm -rf $(VENV) build dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis

# The stamp is written last, so an interrupted install is tried again. -qq: errors only.
$(STAMP): requirements.lock examples/requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "make: '$(PYTHON)' is not Python 3.11 or newer with its venv module (Debian, Ubuntu: install python3-venv); name one that is: make $(or $(MAKECMDGOALS),setup) PYTHON=python3.12" >&2; exit 1; }
	@echo "Installing the pinned environment into $(VENV) (the first time: about 4 minutes, 6 GB)"
	@test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install -qq --disable-pip-version-check --require-hashes -r requirements.lock
	@$(VENV)/bin/python -m pip install -qq --disable-pip-version-check --require-hashes --no-deps -r examples/requirements.txt
	@$(VENV)/bin/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
