# `make` alone lists the targets. Every target needs only Python, git and make: the rest is installed in .venv.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip -qq --disable-pip-version-check
PARTS  := $(sort $(dir $(wildcard integrations/*/pyproject.toml)))
READY  := $(VENV)/.ready
QUESTION := What happens to a document that is too long?
SAY    := @printf '==> %s\n'

.PHONY: help demo test check lint fix docs new-method clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do \
		printf '%-12s %s\n' "$$name" "$$text"; done

demo: $(READY)  ## search this repository's own documentation, before and after reranking
	$(SAY) "Searching docs/ for an answer: $(QUESTION)"
	@$(BIN)/fletching search docs "$(QUESTION)" --cache build/search

test: lint  ## run everything a change must pass
	$(SAY) "Running the tests, the docstring examples and the examples of the documentation"
	@$(BIN)/pytest --numprocesses auto --dist loadfile

check: test  ## the same as test

lint: $(READY)  ## check format, style, imports, types and spelling; runs no test
	$(SAY) "Checking format and style"
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	$(SAY) "Checking that rooms import downwards only"
	@$(BIN)/lint-imports --no-logo >/dev/null || $(BIN)/lint-imports
	$(SAY) "Checking types"
	@$(BIN)/mypy
	@$(BIN)/mypy --package langchain_fletching --package llama_index.embeddings.fletching \
		--package llama_index.postprocessor.fletching --package llama_index.retrievers.fletching
	$(SAY) "Checking spelling"
	@$(BIN)/typos

fix: $(READY)  ## format the code, repair what can be repaired, regenerate the cog blocks
	$(SAY) "Formatting and repairing"
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format --quiet .
	@$(BIN)/cog -r README.md docs/*.md >/dev/null

docs: $(READY)  ## build the documentation into site/
	$(SAY) "Building the documentation"
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	$(SAY) "Open site/index.html"

new-method: $(READY)  ## start a method: make new-method NAME=x
	@$(BIN)/python scripts/new_method.py "$(NAME)"

clean:  ## remove .venv and everything that was built
	$(SAY) "Removing .venv, caches and builds"
	@rm -rf $(VENV) build dist site .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt $(wildcard integrations/*/pyproject.toml)
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
		printf '==> %s\n' "Making $(VENV) with $$($(PYTHON) --version)"; $(PYTHON) -m venv --clear $(VENV); }
	$(SAY) "Installing torch, the largest download"
	@$(PIP) install "$$(grep '^torch==' constraints.txt)"
	$(SAY) "Installing fletching, its extras and its tools"
	@$(PIP) install --constraint constraints.txt --editable ".[train,search,evaluate,chinese,mteb,plot,offline,docs,dev]"
	$(SAY) "Installing the packages for LangChain and LlamaIndex"
	@$(PIP) install --constraint constraints.txt $(PARTS:%=--editable ./%)
	@touch $@
