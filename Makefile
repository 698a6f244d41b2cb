# koa-repro. `make reproduce` and `make test` do everything on a machine with Python 3.11+, make and a package registry.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
.PHONY: help setup reproduce test lab docs bench figures readme notebooks reference collect pack merge status engines faults

# Whatever the locale, text is UTF-8.
export PYTHONUTF8 := 1
# Commands start many processes; what they import is compiled once and kept.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
PROFILE ?=
DATA ?=
SEEDS ?=
STORE ?=
OUT ?=
ONLY ?=
EXECUTOR ?=
NB ?=
MINUTES ?= 25
FOLDER ?=
RUNS ?=

# A variable that is mistyped, or of another command, would be ignored by make, and the run would go its default way for hours.
STUDIES := PROFILE DATA SEEDS STORE
TAKES_reproduce := $(STUDIES) OUT ONLY EXECUTOR
TAKES_figures := $(TAKES_reproduce)
TAKES_reference := $(STUDIES) MINUTES
TAKES_collect := $(STUDIES)
TAKES_status := $(STUDIES)
TAKES_pack := $(STUDIES) FOLDER
TAKES_merge := $(STUDIES) FOLDER RUNS
TAKES_notebooks := NB
KNOWN := PYTHON $(foreach goal,$(MAKECMDGOALS),$(TAKES_$(goal)))
GIVEN := $(foreach v,$(subst \ ,?,$(MAKEOVERRIDES)),$(if $(findstring =,$(v)),$(firstword $(subst =, ,$(v)))))
UNKNOWN := $(filter-out $(KNOWN),$(filter-out %:,$(GIVEN)))
ifneq ($(strip $(UNKNOWN)),)
$(error make $(MAKECMDGOALS) takes no variable $(UNKNOWN): choose among $(KNOWN))
endif

BIN := .venv/bin
STAMP := .venv/.installed
# What the caller does not name has the command's own default.
given = $(foreach v,$1,$(if $($v),--$(shell echo $v | tr A-Z a-z) "$($v)"))
STUDY = $(call given,$(TAKES_reproduce))
GIVEN_ONLY = $(call given,$(STUDIES))
# torch with its thousands of kernels comes first and alone, so that no other package asks for another build of it.
# Modules are compiled when they are first imported: most never are.
INSTALL = $(BIN)/pip install --disable-pip-version-check --no-compile -q -c constraints.txt

help: ## what there is
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP) ## install everything into .venv

$(STAMP): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	echo "Installing into .venv (a few minutes the first time)"
	$(INSTALL) "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(INSTALL) -e '.[reproduce,dicom,slurm,dev]'
	touch $(STAMP)

reproduce: setup ## every table and figure, and a report (DATA, PROFILE, SEEDS, OUT, STORE, EXECUTOR=slurm, ONLY=table3)
	@$(BIN)/python -m koa_repro.tools.reproduce $(STUDY)

figures: setup ## the same, and keep it: outputs in the notebooks, results in figures/, runs among the references
	@$(BIN)/python -m koa_repro.tools.reproduce $(STUDY) --carry

reference: setup ## train wanted runs for MINUTES on the knees in DATA, and keep those that finish among the references
	@$(BIN)/python -m koa_repro.tools.reference train --minutes "$(MINUTES)" $(GIVEN_ONLY)

collect: setup ## keep what STORE holds of the wanted runs and of the searches among the references
	@$(BIN)/python -m koa_repro.tools.reference collect $(GIVEN_ONLY)

pack: setup ## knees in DATA and open jobs as a FOLDER for a machine with nothing but PyTorch
	@$(BIN)/python -m koa_repro.tools.reference pack --folder "$(FOLDER)" $(GIVEN_ONLY)

merge: setup ## take in what such a machine handed back (RUNS=runs.zip, FOLDER of the pack)
	@$(BIN)/python -m koa_repro.tools.reference merge --folder "$(FOLDER)" --runs "$(RUNS)" $(GIVEN_ONLY)

status: setup ## the wanted runs of PROFILE, and what there is of them
	@$(BIN)/python -m koa_repro.tools.reference status $(GIVEN_ONLY)

test: setup ## ruff, import contracts; export and clean leave no diff; the notebooks' own tests; tests/
	@$(BIN)/ruff check
	@$(BIN)/ruff check --isolated --select F821 koa_repro  # a module that needs a name of its notebook
	PATH="$(CURDIR)/$(BIN):$$PATH" lint-imports --no-cache
	PATH="$(CURDIR)/$(BIN):$$PATH" tests/check_notebooks.sh
	PATH="$(CURDIR)/$(BIN):$$PATH" OMP_NUM_THREADS=1 nbdev_test --n_workers 2 --skip_file_re '^index' --skip_folder_re '^(paper|beyond)$$'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2

lab: setup ## open the notebooks
	@$(BIN)/jupyter lab nbs

bench: setup ## this engine against the usual loop; what a whole run costs, kept in data_manifests/scale.csv
	@$(BIN)/python tests/bench_training.py
	$(BIN)/python tests/bench_scale.py

engines: setup ## what precision, recording, compiling and company bring to a training on this device
	@$(BIN)/python tests/bench_engines.py

# The tests leave out cells that are marked slow: what they assert of all published knees is asserted here.
notebooks: setup ## execute library notebooks in place (NB=method/5_losses, or all of them)
	@$(BIN)/python -m koa_repro.tools.reproduce --refresh "$(NB)"

readme: setup ## README.md and RESULTS.md from nbs/index.ipynb and figures/
	@$(BIN)/python -m koa_repro.tools.reproduce --pages

docs: setup ## the notebooks as HTML pages, in build/docs
	@$(BIN)/python -m koa_repro.tools.reproduce --docs

faults: setup ## long trials of kills, full disks, flipped bits, hostile files and a real Slurm; counts go to figures/
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/faults --keep
