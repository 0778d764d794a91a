# `make` lists the targets. Set-up happens by itself, in .venv, and again only when
# pyproject.toml or constraints.txt has changed.

PYTHON ?= python3
MODEL   = tiny
PROMPT  = Mia has the red ball. Tom has the blue cup. Ana has the green book. Who has the blue cup?

# torch hands the paths of its libraries to g++ without quotes: from a folder with a space nothing could be compiled.
VENV      := $(if $(word 2,$(CURDIR)),$(HOME)/.cache/qwen3_scratch/$(shell pwd | cksum | cut -d ' ' -f 1),.venv)
BIN       := $(VENV)/bin
PIP       := $(BIN)/python -m pip --quiet --quiet --disable-pip-version-check --no-input
# The later ones take longest and go first, so that no process works alone at the end.
NOTEBOOKS := $(shell ls -r notebooks/*.ipynb 2>/dev/null)
# What the notebooks showed before a refresh; a folder for each, since two may run at a time.
STORED    := $(shell mktemp -u $(VENV)/stored.XXXXXX)

# Shapes in the signatures are checked while these tests run: all cases of the rooms of what takes tensors, and in
# `make proof` one case of each kind where tensors only pass through. A pass then takes three times as long. Where
# something compiles the checks would be compiled too.
SHAPES   := --jaxtyping-packages=qwen3_scratch,beartype.beartype
SHAPED   := $(addprefix tests/,model fast inside learning plots generation/test_sampling.py tiny/test_evaluate.py)
COMPILED  = $(shell grep --recursive --files-with-matches --word-regexp --include='test_*.py' mark.compiled tests)
CHECKED   = $(filter-out $(COMPILED),$(shell find $(SHAPED) -name 'test_*.py' | sort))
PASSED_ON = $(addprefix tests/,checkpoints devices generation tiny tracing)

BENCHMARKS := decode prefill load start context experts tiny roofline products int8 lookup

# `make test` keeps one case of each kind; `make proof` leaves nothing out.
LEFT_OUT := not proof

# In each process one thread, since small tensors gain nothing from more; two processes more than cores, since some wait.
PROCESSES ?= $(shell expr 2 + $$(nproc 2>/dev/null || echo 2))
SPREAD    := -n $(PROCESSES) --dist loadfile --no-loadscope-reorder
ALONE     := OMP_NUM_THREADS=1

# The outputs in git are those of the embedded checkpoint, drawn without widgets and made without a network.
AS_COMMITTED := env -u MPLBACKEND -u QWEN3_SCRATCH_MODEL CI=true HF_HUB_OFFLINE=1 HF_HUB_CACHE="$(abspath $(VENV)/empty-hub)"

ORACLE := 'mlx-lm[cpu]'  # a second implementation to compare with, where it has wheels

# Through the environment, as typed, a prompt may hold quotes, dollars and backticks.
override MODEL  := $(value MODEL)
override PROMPT := $(value PROMPT)
export MODEL PROMPT

# A suite starts hundreds of processes: without compiled files kept beside the source each would compile all anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run test proof lint unit notebooks fuzz real bench gpu lab explorer site book slides refresh train exercises grade clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

run: $(VENV)/.run-ready ## answer PROMPT with MODEL (a name, folder or hub id) and show the routes
	@$(BIN)/qwen3-scratch generate "$$PROMPT" --model "$$MODEL" --routes

# In a loop rather than as prerequisites: one after the other, also under `make -j`, and each whatever became of those before.
test: $(VENV)/.test-ready ## run everything that CI runs: lint, unit and notebooks, in ten minutes on two cores
	@failed=; for part in lint unit notebooks; do $(MAKE) --no-print-directory $$part || failed="$$failed $$part"; done; \
	  test -z "$$failed" || { echo "failed:$$failed" >&2; exit 1; }

proof: $(VENV)/.test-ready ## run all of that and what takes longer: every case, shapes, a minute of each fuzzer (two hours)
	@failed=; for part in lint unit notebooks fuzz; do $(MAKE) --no-print-directory $$part LEFT_OUT= || failed="$$failed $$part"; done; \
	  test -z "$$failed" || { echo "failed:$$failed" >&2; exit 1; }

lint: $(VENV)/.test-ready ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: $(VENV)/.test-ready ## run the tests, those of what takes tensors with their shapes checked
	@failed=0; run() { $(ALONE) $(BIN)/python -m pytest -q $(SPREAD) "$$@" || failed=1; }; \
	  run $(SHAPES) -m "not compiled$(if $(LEFT_OUT), and $(LEFT_OUT))" $(CHECKED); run -m "$(LEFT_OUT)" tests $(CHECKED:%=--ignore=%); \
	  $(if $(LEFT_OUT),,run $(SHAPES) -m "not compiled and not proof" $(PASSED_ON) $(CHECKED:%=--ignore=%);) exit $$failed

notebooks: $(VENV)/.test-ready ## run the notebooks and compare their outputs with those in git
ifeq ($(NOTEBOOKS),)
	@echo "There is no notebook in notebooks/ yet." >&2
else
	$(AS_COMMITTED) $(ALONE) $(BIN)/python -m pytest -q $(SPREAD) --color=no -p no:cacheprovider --nbval --nbval-current-env \
	  --nbval-cell-timeout 120 --nbval-sanitize-with tests/notebooks/sanitize.cfg $(NOTEBOOKS)
endif

fuzz: $(VENV)/.fuzz-ready ## read files that nobody would write, SECONDS_EACH=60 for each of TARGETS="config index header tokenizer template"
	@for target in $(or $(TARGETS),config index header tokenizer template); do \
	  $(ALONE) $(BIN)/python tests/fuzz/fuzz.py $$target $(or $(SECONDS_EACH),60) || exit 1; done

real: $(VENV)/.test-ready ## on a machine with a network: the real weights beside transformers, into REAL.md (4.5 GB of disk)
	@$(BIN)/python tests/real/real.py

bench: $(VENV)/.bench-ready ## measure the speed beside transformers and llama.cpp into benchmarks/RESULTS.md (an hour, 10 GB of disk)
	@for question in $(BENCHMARKS); do $(BIN)/python -m benchmarks.$$question || exit 1; done
	@$(BIN)/python -m benchmarks.report

# Installs nothing, since where a GPU is lent there may be no registry: WHEELS=folder holds what is missing there.
gpu: ## on a machine with a GPU: its tests, speeds, a profile, the last notebook, into build/gpu (eight minutes; REHEARSAL=1 on a CPU)
	@$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m benchmarks.gpu $(if $(WHEELS),--wheels "$(WHEELS)") $(if $(REHEARSAL),--rehearsal)

lab: $(VENV)/.notebooks-ready ## open the notebooks in JupyterLab
	THP_MEM_ALLOC_ENABLE=1 $(BIN)/jupyter lab notebooks

explorer: $(VENV)/.run-ready ## write MODEL as one page that runs it in a browser, build/explorer.html
	@mkdir -p build
	@$(BIN)/qwen3-scratch explore "$$MODEL" --output build/explorer.html

# Only what changed is read anew, and the explorer is written again only where the package has changed.
site: $(VENV)/.site-ready ## write the book as pages, build/site/index.html, which ask nobody for anything
	@$(ALONE) $(BIN)/python docs/stage.py build/site-source
	@$(BIN)/python -m sphinx -q -W --keep-going -n -c docs -d build/site-doctrees build/site-source build/site
	@echo "build/site/index.html"

book: $(VENV)/.site-ready ## print the book, build/book.pdf; runs the chapters for sharp figures (CHAPTERS= runs none)
	@$(ALONE) $(BIN)/python docs/stage.py build/site-source
	@$(BIN)/python docs/book.py build/site-source build/book.pdf --chapters "$(if $(filter undefined,$(origin CHAPTERS)),*,$(CHAPTERS))"

slides: $(VENV)/.site-ready ## write a lecture (LECTURE=docs/lectures/07_router_and_experts.md) as one file, build/slides.html
	@mkdir -p build
	@$(BIN)/python docs/slides.py $(or $(LECTURE),docs/lectures/07_router_and_experts.md) build/slides.html

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
	$(BIN)/python -m qwen3_scratch.tiny.recipe data/tiny-moe

exercises: $(VENV)/.exercises-ready ## write the students' notebooks of the course to dist/exercises, and a zip
	@$(BIN)/python notebooks/exercises/course.py hand-out dist/exercises

grade: $(VENV)/.exercises-ready ## grade SUBMISSIONS=folder, with a folder for each student (TIMEOUT=120 seconds a cell)
	@test -n "$(SUBMISSIONS)" || { echo "grade: no folder given, expected one with a folder for each student: make grade SUBMISSIONS=folder" >&2; exit 1; }
	@$(ALONE) $(BIN)/python notebooks/exercises/course.py grade "$(SUBMISSIONS)" $(if $(TIMEOUT),--timeout $(TIMEOUT))

clean: ## remove the environment and what tools left behind
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
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

# llama.cpp comes as source: where it cannot be compiled, its rows say so and the others are measured.
$(VENV)/.bench-ready: $(VENV)/.test-ready
	@echo "Installing the project and its extra [bench] into $(VENV) (compiles llama.cpp, minutes) ..." >&2
	@$(PIP) install --constraint constraints.txt --editable '.[bench]' || \
	  echo "llama-cpp-python cannot be installed: install a C++ compiler; until then it is not measured." >&2
	@touch $@

$(VENV)/.fuzz-ready: $(VENV)/.run-ready
	@$(PIP) install --only-binary atheris --constraint constraints.txt --editable '.[fuzz]' 2>/dev/null || \
	  { echo "fuzz: atheris cannot be installed: it comes for Linux on x86-64 with Python 3.11 to 3.13; is there a network?" >&2; exit 1; }
	@touch $@

# matplotlib complains on standard error while it first lists the fonts, and a notebook would show that.
$(VENV)/.notebooks-ready $(VENV)/.exercises-ready $(VENV)/.site-ready $(VENV)/.test-ready: $(VENV)/.%-ready: pyproject.toml constraints.txt $(VENV)/.torch-ready
	@echo "Installing the project and its extra [$*] into $(VENV) ..." >&2
	@$(PIP) install --constraint constraints.txt --editable '.[$*]'
	@$(if $(filter test,$*),$(PIP) install --only-binary :all: --constraint constraints.txt $(ORACLE) 2>/dev/null || \
	  echo "$(ORACLE) cannot be installed: it comes as wheels for Linux and macOS; its comparison is skipped." >&2)
	@$(BIN)/python -c 'import matplotlib.font_manager' 2>/dev/null
	@touch $@
