.DEFAULT_GOAL := help
.PHONY: help setup demo experiments readme-commands test repro report bench lint mutants audit states clean-states clean
PYTHON ?= python3
# PyTorch's own index has builds with +cpu in their version, which pip prefers to those of the same version without.
TORCH ?= cuda
torch_cpu := --extra-index-url https://download.pytorch.org/whl/cpu
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export DVC_NO_ANALYTICS := 1
# In hooks, rebase and bisect git names by these the repository that is meant, and DVC must not take it for this one;
# the others would keep .venv's Python from its packages or from this folder.
unexport $(shell git rev-parse --local-env-vars 2>/dev/null) PYTHONHOME PYTHONSAFEPATH

help: ## what there is to make
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):[^#]*## /\1|/' | awk -F'|' '{printf "make %-16s %s\n", $$1, $$2}'

.venv/installed: requirements.lock
	@case "$(TORCH)" in cpu|cuda) ;; *) echo "TORCH=$(TORCH): expected cpu or cuda" >&2; exit 1 ;; esac
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; set PYTHON=...")'
	@# an environment that was begun here and cannot be finished is removed, one that was there before is not
	@echo 'The packages of requirements.lock are installed into .venv, which takes some minutes.'
	@test -e .venv || trap 'test -e $@ || rm -rf .venv' EXIT; trap 'exit 1' HUP INT TERM; \
	"$(PYTHON)" -m venv .venv && \
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock \
		$(if $(filter cpu,$(TORCH)),$(torch_cpu)) && \
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable . && \
	touch $@

setup: .venv/installed ## a virtual environment in .venv with the pinned packages; TORCH=cpu: without CUDA

demo: setup ## the whole pipeline on a small generated corpus, on a CPU, in build/demo
	@python demo/run.py

experiments: setup ## what each of DVC's experiments changed, and the perplexity of every depth
	@python tools/experiments.py

readme-commands: setup ## after make demo: README's commands run, and show what it says (minutes)
	@python tools/readme_commands.py

test: setup ## all tests
	@OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadgroup --durations 10

repro: setup ## the full study (WikiText-2), on all GPUs or with JOBS=... stages at once
	@PYTHONPATH=src python -m newllm.parallel $(if $(JOBS),--jobs $(JOBS))

report: setup ## the report as a page, build/report/index.html, opened in a browser
	@python -m stages.page

bench: setup ## speed: plain loop, this trainer and torch's LSTM side by side
	@python -m benchmarks.bench

lint: setup ## ruff and mypy
	@ruff check . && ruff format --check . && mypy

mutants: setup ## small changes of the core modules that no test notices (hours; ONLY='newllm.studies.*' for some)
	@python -m venv build/mutmut
	@build/mutmut/bin/pip install --quiet --disable-pip-version-check 'mutmut>=3.8,<4'
	@export OMP_NUM_THREADS=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1; \
	export PYTHONPATH="$$(python -c 'import site; print(site.getsitepackages()[0])')"; \
	build/mutmut/bin/python -m mutmut run --max-children 1 $(if $(ONLY),'$(ONLY)') && \
	build/mutmut/bin/python -m mutmut results

audit: ## known vulnerabilities of the pinned packages (pip-audit, needs the network)
	@"$(PYTHON)" -m venv build/audit && build/audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	@build/audit/bin/pip-audit --requirement requirements.lock --no-deps --disable-pip --strict

states: setup ## lists the states of trainings that were killed, and whether they can go on
	@PYTHONPATH=src python -m newllm.runtime.resume

clean-states: setup ## removes states of other code than that in src; with ALL=1 all that no training uses
	@PYTHONPATH=src python -m newllm.runtime.resume --remove $(if $(ALL),--all)

clean: ## removes what demo and tests left; the environment, data and results stay
	rm -rf build mutants .pytest_cache .hypothesis .mypy_cache .ruff_cache
