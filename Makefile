# Each job is one line of `python -m ...`; without make, copy it (on Windows: .venv\Scripts\python).
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.installed
TESTABLE := .venv/.testable

.DEFAULT_GOAL := help
.PHONY: help report train smoke lab check test clean

help:             ## list the jobs
	@grep -hE '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 10
report: $(READY)  ## run all notebooks and render the report; stored weights are used when they fit
	$(BIN)/python -m helpers report
train: $(READY)   ## the same, training every model from nothing (an hour and a half, or more, on 2 cores)
	$(BIN)/python -m helpers report --train
smoke: $(READY)   ## everything from nothing with tiny settings, into a temporary folder
	$(BIN)/python -m helpers report --profile smoke --out "$$(mktemp -d)/smoke"
lab: $(READY)     ## JupyterLab at the repository root, for this machine only; the address with its token is printed
	$(BIN)/python -m jupyterlab --ip=127.0.0.1
check: $(TESTABLE) ## lint, types, the direction of imports, declared dependencies
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports
	$(BIN)/deptry .
test: check       ## that, then every test
	$(BIN)/python -m pytest
clean:            ## remove the environment and everything that git ignores, except data/
	git clean -fdXq -e '!data/' -e '!data/**'

$(READY): pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@
$(TESTABLE): $(READY)
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@
