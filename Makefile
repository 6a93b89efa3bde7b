# Two commands to know: make demo, make test.

BIN := .venv/bin
DEMO := examples/traces/quiet.vtrace
# What set-up is for: run, record, test (see tools/setup).
FOR ?= run record test
# Further arguments of pytest, of the lab, of the benchmark.
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test check lint types contracts format lab bench \
	record-examples constraints clean
# One after the other: set-up comes first.
.NOTPARALLEL:

help: ## Say what can be made
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | \
		while IFS='	' read -r name text; do printf '  make %-16s %s\n' "$$name" "$$text"; done

setup: ## Install what is missing; leaves .venv/bin/vtrace (FOR="run record" for use alone)
	@PYTHON="$(PYTHON)" tools/setup $(FOR)

demo: ## Look at a recording: what the queues did, and the chains one by one
	@$(MAKE) --no-print-directory setup FOR=run
	$(BIN)/vtrace report $(DEMO)
	$(BIN)/vtrace lifecycles $(DEMO)

test: ## Lint, types, import contracts, all tests (ARGS="-k ring" for some)
	@$(MAKE) --no-print-directory setup FOR="run record test"
	@$(MAKE) --no-print-directory -k lint types contracts
	@$(BIN)/python -m pytest $(ARGS) || for again in 1 2; do \
		grep -q :: .pytest_cache/v/testhost/gone 2>/dev/null || exit 1; \
		echo "An emulated machine hung or died; once more what failed:"; \
		$(BIN)/python -m pytest --last-failed $(ARGS) && exit 0; \
		[ $$again = 1 ] || exit 1; done

check: ## Lint, types and import contracts: seconds, before each commit
	@$(MAKE) --no-print-directory setup FOR="run check"
	@$(MAKE) --no-print-directory -k lint types contracts

lint:
	@$(BIN)/ruff check --quiet --output-format concise

types:
	@$(BIN)/mypy --no-error-summary

contracts:
	@$(BIN)/lint-imports --no-logo >.venv/contracts.log 2>&1 || { cat .venv/contracts.log; exit 1; }

format: ## Format the Python code
	@$(MAKE) --no-print-directory setup FOR="run check"
	@$(BIN)/ruff format --quiet

lab: ## Open a shell in the test host, an emulated machine with a KVM guest
	@$(MAKE) --no-print-directory setup
	@$(BIN)/python -m tests.testbed lab $(ARGS)

bench: ## Measure vtrace beside perf and bcc on this machine (docs/benchmarks.md)
	@$(MAKE) --no-print-directory setup FOR="run record"
	@$(BIN)/python -m benchmarks $(ARGS)

record-examples: ## Record examples/traces anew, in the test host
	@$(MAKE) --no-print-directory setup
	@$(BIN)/python -m tests.host.record_examples $(ARGS)

constraints: ## Take the newest Python packages that pyproject.toml allows
	@tools/constraints

clean: ## Remove what was made, .venv included
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis \
		.import_linter_cache .grimp_cache
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
