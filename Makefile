# Two commands do everything: `make repro` and `make test`. Both set up what they need first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Threads that wait spin shortly, then sleep. Spinning long, the default, made training eight times
# slower on a busy machine; sleeping at once makes it twice as slow on an idle one.
export GOMP_SPINCOUNT := 10000

.DEFAULT_GOAL := help
.PHONY: help setup repro appendix test test-browser bench lab search lint clean

help:  ## say what there is
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY)  ## make .venv with all requirements

$(READY): requirements.txt constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -V 2>&1): try make PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --requirement requirements.txt --constraint constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $(READY)

# DVC needs a repository; a source archive has none.
repro: $(READY)  ## run the pipeline of the profile in params.yaml: data to tables, figures, appendix
	@$(BIN)/python -m carot_lib.stages.check_params
	@git rev-parse --git-dir >/dev/null 2>&1 || printf '[core]\n    no_scm = true\n' > .dvc/config.local
	PATH="$(abspath $(BIN)):$$PATH" dvc repro

appendix: $(READY)  ## render the results as a site and a PDF, and name them
	@$(BIN)/python -m carot_lib.stages.appendix --profile "$$(sed -n 's/^profile: *//p' params.yaml)"

# One thread a process: two test processes share the cores.
test: $(READY)  ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-browser: $(READY)  ## try the lab and the site in a browser, which you install yourself
	$(BIN)/python -m pytest tests/browser -m browser -rs

bench: $(READY)  ## measure calibration and training against peers and the plain way (a quarter of an hour, idle machine)
	$(BIN)/python -m benchmarks.calibration
	$(BIN)/python -m benchmarks.training

# .jupyter keeps it from asking for news and newer versions, which would need the network.
lab: $(READY)  ## open JupyterLab at its start notebook; LAB=--no-browser only names the address
	JUPYTER_CONFIG_PATH="$(CURDIR)/.jupyter" $(BIN)/jupyter lab \
	  --ServerApp.root_dir="$(CURDIR)" --LabApp.default_url=/lab/tree/notebooks/00_start.ipynb $(LAB)

search: $(READY)  ## choose learning rates and label smoothing on ID validation data (ten minutes)
	$(BIN)/python -m carot_lib.stages.search --profile "$$(sed -n 's/^profile: *//p' params.yaml)"

lint: $(READY)  ## check style and types of names
	$(BIN)/ruff check
	$(BIN)/ruff format --check

clean:  ## remove the environment; results and models stay
	rm -rf $(VENV)
