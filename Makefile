# Every target makes its own environment in .venv; `make help` lists them.
#   make serve ARGS="--port 9000"     pass options through
#   make test PYTHON=python3.12       choose the Python that .venv is made with

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
ARGS ?=
SLOW ?=
WORKERS ?= 2
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help serve chat bench claims test check format train-amuse clean environment-engine environment-dev

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

serve: environment-engine ## Serve the embedded model on 127.0.0.1:8000 (ARGS="MODEL --port 9000")
	@exec $(BIN)/servery serve $(ARGS)

chat: environment-engine ## Chat in the terminal with a server that runs
	@exec $(BIN)/servery chat $(ARGS)

bench: environment-engine ## Measure a server that runs (ARGS="goodput --slo chat")
	@exec $(BIN)/servery bench $(if $(ARGS),$(ARGS),run)

claims: environment-dev ## Measure what is said about serving, write docs/claims.md (ARGS="--only batching", "--render")
	@exec $(BIN)/python -m benchmarks.claims $(ARGS)

test: environment-dev ## Run the tests (SLOW=1: the slow ones too; WORKERS=4; ARGS="-k scheduler")
	@$(BIN)/python tools/programs.py
	@exec $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(if $(SLOW),,-m "not slow") $(ARGS)

check: environment-dev ## Check style, format, types and floors
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check . || { echo "servery: run make format"; exit 1; }
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

format: environment-dev ## Format the code, fix what can be fixed, write docs/cli.md
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .
	@$(BIN)/python -m tools.cli_page

train-amuse: environment-dev ## Train the amuse models again (hours; resumes)
	@exec $(BIN)/python -m training.make_amuse $(ARGS)

clean: ## Remove the environment, caches and build outputs (the weights stay)
	rm -rf .venv .venv.lock build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src -name '*.so' -delete
	find src tests training benchmarks tools -name __pycache__ -type d -prune -exec rm -rf {} +

environment-engine:
	@$(call environment,engine)

environment-dev:
	@$(call environment,engine,dev)

comma := ,
environment = test -n "$(PYTHON)" || { echo "servery: Python 3.11, 3.12 or 3.13 is needed and none was found: \
install one, or name it: make PYTHON=/path/to/python3"; exit 1; }; $(PYTHON) tools/environment.py $(1)$(if $(2),$(comma)$(2))
