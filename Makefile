# Two commands do everything: `make repro` and `make test`. Both set up what they need first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
READY_TEST := $(VENV)/.ready-test

# uv installs the pinned versions faster than pip; where it is missing or fails (it reads other
# settings than pip), pip does it. `make UV= ...` does not try uv.
UV := $(shell command -v uv 2>/dev/null)
uv_or_pip = $(if $(UV),$(1) 2>/dev/null || { echo "uv failed; using pip" >&2; $(2); },$(2))
install = $(call uv_or_pip,"$(UV)" pip install --quiet --compile-bytecode --python $(BIN)/python $(1),\
  $(BIN)/python -m pip install --quiet --disable-pip-version-check $(1))

# Threads that wait spin shortly, then sleep. Spinning long, the default, made training eight times
# slower on a busy machine; sleeping at once makes it twice as slow on an idle one.
export GOMP_SPINCOUNT := 10000

# One thread per process: two test processes share the cores. Files stay in the order of
# tests/conftest.py, the slowest first.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup repro appendix test test-slow test-browser bench lab pilot search lint clean

help:  ## list the commands
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY)  ## make .venv with all that the pipeline, the lab and the appendix need

$(READY): requirements.txt constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -V 2>&1): try make PYTHON=python3.11" >&2; exit 1; }
	$(call uv_or_pip,"$(UV)" venv --quiet --seed --allow-existing --python $(PYTHON) $(VENV),$(PYTHON) -m venv $(VENV))
	$(call install,--requirement requirements.txt --constraint constraints.txt)
	$(call install,--no-deps --editable .)
	@touch $@

$(READY_TEST): $(READY) requirements-test.txt
	$(call install,--requirement requirements-test.txt --constraint constraints.txt)
	@touch $@

# DVC needs a repository; a source archive has none.
repro: $(READY)  ## run the pipeline of the profile in params.yaml; JOBS=2: two stages at a time
	@git rev-parse --git-dir >/dev/null 2>&1 || printf '[core]\n    no_scm = true\n' > .dvc/config.local
	PATH="$(abspath $(BIN)):$$PATH" python -m carot_lib repro $(if $(JOBS),--jobs $(JOBS))

appendix: $(READY)  ## render the results as a site and a PDF, and print their paths
	@$(BIN)/python -m carot_lib appendix

test: $(READY_TEST)  ## run the tests, except the slow ones
	$(PYTEST)

test-slow: $(READY_TEST)  ## run the slow tests, and those on random input with more of it
	HYPOTHESIS_PROFILE=thorough $(PYTEST) -m "slow or hypothesis"

test-browser: $(READY_TEST)  ## test the lab and the site in a browser, which you install yourself
	$(BIN)/python -m pytest tests/browser -m browser -rs

bench: $(READY_TEST)  ## compare speed and memory with other libraries and plain code (15 minutes, idle machine)
	$(BIN)/python -m benchmarks.calibration
	$(BIN)/python -m benchmarks.training

# .jupyter keeps it from asking for news and newer versions, which would need the network.
lab: $(READY)  ## open JupyterLab at its start notebook; LAB=--no-browser only prints the address
	JUPYTER_CONFIG_PATH="$(CURDIR)/.jupyter" $(BIN)/jupyter lab \
	  --ServerApp.root_dir="$(CURDIR)" --LabApp.default_url=/lab/tree/notebooks/00_start.ipynb $(LAB)

pilot: $(READY)  ## choose the regime of the miniature by ZS and FT alone (half an hour)
	$(BIN)/python -m carot_lib pilot

search: $(READY)  ## choose learning rates and label smoothing on ID validation data (half an hour)
	$(BIN)/python -m carot_lib search

lint: $(READY_TEST)  ## check style and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check

clean:  ## remove the environment; results and models stay
	rm -rf $(VENV)
