# The one entrance: people, CI and pre-commit call these targets.
PYTHON ?= python3
VENV ?= .venv
# The PyTorch build; constraints.txt leaves it open. With a GPU, for example: make install TORCH='torch==2.13.0+cu130'
TORCH ?= torch==2.13.0
DATA ?=
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

export PYTHONDONTWRITEBYTECODE := 1

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else "Animora needs Python 3.11 to 3.13; name one: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt '$(TORCH)'
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

.PHONY: install
install: $(INSTALLED) ## Create .venv with everything (PyTorch build: TORCH=...)

.PHONY: demo
demo: $(INSTALLED) ## Run the whole system on sample data until Ctrl-C
	@$(BIN)/animora-server demo

.PHONY: test
test: $(INSTALLED) ## Run every test, real servers included
	$(BIN)/pytest --cov --cov-report=term

.PHONY: lint
lint: $(INSTALLED) ## Check style, import contracts and the proto
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/buf lint proto

.PHONY: format
format: $(INSTALLED) ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: type
type: $(INSTALLED) ## Check types
	$(BIN)/mypy proto client training server tests

.PHONY: clean
clean: ## Remove environments, caches and build outputs
	rm -rf $(VENV) .venv-proto .venv-oldest .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage* dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
