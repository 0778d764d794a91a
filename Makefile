# `make` lists the targets. Set-up happens by itself, in .venv, and again only when
# pyproject.toml or constraints.txt has changed.

PYTHON ?= python3
MODEL   = tiny
PROMPT  = Mia has the red ball. Tom has the blue cup. Ana has the green book. Who has the blue cup?

VENV      := .venv
BIN       := $(VENV)/bin
PIP       := $(BIN)/python -m pip --quiet --quiet --disable-pip-version-check --no-input
NOTEBOOKS := $(sort $(wildcard notebooks/*.ipynb))
# What the notebooks showed before a refresh; a folder for each, since two may run at a time.
STORED    := $(shell mktemp -u $(VENV)/stored.XXXXXX)

# Shapes in the signatures are checked while the tests run, and only then.
SHAPES := --jaxtyping-packages=qwen3_scratch,beartype.beartype

# In each process one thread, since small tensors gain nothing from more; one process more than cores, since some wait.
PROCESSES ?= $(shell expr 1 + $$(nproc 2>/dev/null || echo 2))
SPREAD    := -n $(PROCESSES) --dist loadfile --no-loadscope-reorder
ALONE     := OMP_NUM_THREADS=1

# The outputs in git are those of the embedded checkpoint, drawn without widgets and made without a network.
AS_COMMITTED := env -u MPLBACKEND -u QWEN3_SCRATCH_MODEL CI=true HF_HUB_OFFLINE=1 HF_HUB_CACHE=$(CURDIR)/$(VENV)/empty-hub

# Through the environment, as typed, a prompt may hold quotes, dollars and backticks.
override MODEL  := $(value MODEL)
override PROMPT := $(value PROMPT)
export MODEL PROMPT

.DEFAULT_GOAL := help
.PHONY: help run test lint unit notebooks parity-full lab refresh train clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: $(VENV)/.run-ready ## answer PROMPT with MODEL (a name, folder or hub id) and show the routes
	@$(BIN)/qwen3-scratch generate "$$PROMPT" --model "$$MODEL" --routes

# Recipe lines rather than prerequisites: one after the other, also under `make -j`.
test: $(VENV)/.test-ready ## run everything that CI runs: lint, unit and notebooks
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory unit
	@$(MAKE) --no-print-directory notebooks

lint: $(VENV)/.test-ready ## check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

unit: $(VENV)/.test-ready ## run the tests, with shapes checked
	$(ALONE) $(BIN)/python -m pytest -q $(SPREAD) $(SHAPES) tests

notebooks: $(VENV)/.test-ready ## run the notebooks and compare their outputs with those in git
ifeq ($(NOTEBOOKS),)
	@echo "There is no notebook in notebooks/ yet." >&2
else
	$(AS_COMMITTED) $(ALONE) $(BIN)/python -m pytest -q $(SPREAD) --color=no -p no:cacheprovider --nbval --nbval-current-env \
	  --nbval-cell-timeout 120 --nbval-sanitize-with tests/sanitize.cfg $(NOTEBOOKS)
endif

parity-full: $(VENV)/.test-ready ## compare full-size models with the reference (minutes, gigabytes)
	$(BIN)/python -m pytest -q $(SHAPES) -m full tests

lab: $(VENV)/.notebooks-ready ## open the notebooks in JupyterLab
	$(BIN)/jupyter lab notebooks

refresh: $(VENV)/.notebooks-ready ## run the notebooks (or NOTEBOOKS="a.ipynb b.ipynb") anew and store what changed (MEASURE=1: measured times too)
	@test -n "$(NOTEBOOKS)" || { echo "There is no notebook in notebooks/ yet." >&2; exit 1; }
	@mkdir $(STORED) && cp $(NOTEBOOKS) $(STORED)
	$(AS_COMMITTED) $(ALONE) $(BIN)/jupyter nbconvert --to notebook --execute --inplace \
	  --ExecutePreprocessor.record_timing=False $(NOTEBOOKS)
	$(BIN)/jupyter nbconvert --coalesce-streams --to notebook --inplace $(NOTEBOOKS)
	$(BIN)/nbstripout --keep-output --keep-count --extra-keys \
	  'cell.metadata.execution cell.metadata.lines_to_next_cell metadata.language_info.version' $(NOTEBOOKS)
	$(if $(MEASURE),,$(BIN)/python notebooks/settle.py $(STORED) $(NOTEBOOKS))
	@rm -rf $(STORED)

train: $(VENV)/.run-ready ## make the embedded checkpoint anew in data/tiny-moe (up to two hours on two cores)
	$(BIN)/python -m qwen3_scratch.recipe data/tiny-moe

clean: ## remove the environment and what tools left behind
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
	find qwen3_scratch tests notebooks -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf

# ---- set-up: each stamp is written when what it stands for is installed ----------------------

$(VENV)/.torch-ready: constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "$(PYTHON) is not Python 3.11, 3.12 or 3.13: name one that is, as in 'make PYTHON=python3.11 ...'." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "$(PYTHON) cannot make an environment: install its venv module (Debian: python3-venv)." >&2; exit 1; }
	@echo "Installing PyTorch into $(VENV) (once) ..." >&2
	@$(PIP) install "$$(grep '^torch==' constraints.txt)"
	@touch $@

$(VENV)/.run-ready: pyproject.toml constraints.txt $(VENV)/.torch-ready
	@echo "Installing the project into $(VENV) ..." >&2
	@$(PIP) install --constraint constraints.txt --editable .
	@touch $@

# matplotlib complains on standard error while it first lists the fonts, and a notebook would show that.
$(VENV)/.notebooks-ready $(VENV)/.test-ready: $(VENV)/.%-ready: pyproject.toml constraints.txt $(VENV)/.torch-ready
	@echo "Installing the project and its extra [$*] into $(VENV) ..." >&2
	@$(PIP) install --constraint constraints.txt --editable '.[$*]'
	@$(BIN)/python -c 'import matplotlib.font_manager' 2>/dev/null
	@touch $@
