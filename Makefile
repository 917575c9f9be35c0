# Each job is one line of `python -m ...`; without make, copy it (on Windows: .venv\Scripts\python).
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.installed
TESTABLE := .venv/.testable
QUICK := $(wildcard $(patsubst helpers/%,tests/test_%,$(wildcard helpers/*.py))) tests/test_main.py tests/test_house.py

ifeq ($(wildcard helpers/notebook.py),)
$(error call make in the folder of this Makefile, or with: make -C FOLDER)
endif

.DEFAULT_GOAL := help
.PHONY: help report train smoke lab check quick test clean anew

help:             ## list the jobs
	@grep -hE '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 10
	@echo 'PYTHON=python3.13 after a job: the Python (3.11 or newer) of .venv; one of another version is made anew'
report: $(READY)  ## run all notebooks and render the report; stored weights are used when they fit
	$(BIN)/python -m helpers report
train: $(READY)   ## the same, training every model from nothing (five to twelve hours on 2 cores)
	$(BIN)/python -m helpers report --train
smoke: $(READY)   ## everything from nothing with tiny settings, into a temporary folder
	out=$$(mktemp -d || TMPDIR=/tmp mktemp -d) && $(BIN)/python -m helpers report --profile smoke --out "$$out/smoke"
lab: $(READY)     ## JupyterLab at the repository root, for this machine only; the address with its token is printed
	$(BIN)/python -m jupyterlab --ip=127.0.0.1 --LabApp.default_url=/lab/tree/notebooks/01_data_exploration.ipynb $(if $(filter 0,$(shell id -u)),--allow-root)
check: $(TESTABLE) ## lint, types, the direction of imports, declared dependencies
	$(BIN)/python -m ruff check .
	$(BIN)/python -m mypy
	$(BIN)/python -c 'from importlinter.cli import lint_imports_command as main; main()'
	$(BIN)/python -m deptry .
quick: check      ## that, then the tests of helpers/*.py that take seconds: two minutes
	$(BIN)/python -m pytest -m 'not slow' $(QUICK)
test: check       ## lint, types and so on, then every test
	$(BIN)/python -m pytest
clean:            ## remove .venv and caches; never results, data or files of yours
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis vae_cifar10.egg-info
	find helpers tests -type d -name __pycache__ -prune -exec rm -rf {} +

# What .venv is: its version of Python, then "pip" if it has a whole one; and the version that is asked for, if any is.
VERSION := import sys; print("%d.%d" % sys.version_info[:2])
PIP := import pip; from importlib.metadata import version; version("pip"); print("pip")
FOUND := $(shell test -f .venv/pyvenv.cfg && $(BIN)/python -c '$(VERSION); $(PIP)' 2>/dev/null)
ASKED := $(if $(filter file,$(origin PYTHON)),$(firstword $(FOUND)),$(shell $(PYTHON) -c '$(VERSION)' 2>/dev/null))
USABLE := $(filter $(ASKED),$(firstword $(FOUND)))
OLD := sys.version_info < (3, 11) and sys.exit("error: Python 3.11 or newer is needed; name one, as in PYTHON=python3.13")
# A stamp is a copy of the pyproject.toml that was installed: what it says counts, not when it was written.
stale = $(if $(and $(USABLE),$(filter pip,$(FOUND))),$(shell cmp -s pyproject.toml $(1) || echo anew),anew)
RETRY := echo 'error: the installation did not finish; the same command tries again (if that never helps, after make clean)'

$(READY): $(call stale,$(READY))
	@$(if $(USABLE),$(BIN)/python,$(PYTHON)) -c 'import sys; $(OLD)'
	$(if $(USABLE),,$(PYTHON) -m venv --clear .venv)
	$(if $(USABLE),$(if $(filter pip,$(FOUND)),,rm -rf .venv/lib/*/site-packages/pip-* && $(BIN)/python -m ensurepip))
	$(BIN)/python -m pip install --quiet --editable . || { $(RETRY) >&2; exit 1; }
	@cp pyproject.toml $@
$(TESTABLE): $(call stale,$(TESTABLE)) | $(READY)
	$(BIN)/python -m pip install --quiet --editable '.[test]' || { $(RETRY) >&2; exit 1; }
	@cp pyproject.toml $@
