# `make demo` and `make check` do all set-up by themselves: a virtual environment in .venv, made with $(PYTHON).
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# The GPU verbs install nothing: they use the torch, triton and pytest that $(PYTHON) has.
SIDE_BY_SIDE := -n auto --maxprocesses 8
HERE := PYTHONPATH="$(CURDIR)" $(PYTHON)

.DEFAULT_GOAL := help
.PHONY: help install demo check test test-gpu docs bench bench-gpu bench-readme golden models faults fuzz dist release-check

help:
	@echo "make demo       write a small Llama's checkpoint from its config, and look at it"
	@echo "make check      lint, types, tests: what CI runs"
	@echo "make test       the tests alone; ARGS='-k name' for some of them"
	@echo "make test-gpu   the same tests, compiled, on a CUDA host; installs nothing"
	@echo "make docs       build the documentation into site/; fetches nothing"
	@echo "make bench      measure on this host's CPU: rows in bench/results, and no more; half an hour"
	@echo "make bench-gpu  measure on a CUDA host, likewise; installs nothing; ten minutes"
	@echo "make bench-readme  the tables of README and docs, and the README's picture, from the rows"
	@echo "make models     count the models that deferral builds as torch does: docs/models.md; half an hour"
	@echo "make faults     kill, interrupt and starve save and init at every file operation; ten minutes"
	@echo "make fuzz       bad arguments and changed files by the ten thousand, counted; FUZZ=500 for more; some minutes"
	@echo "make golden     rewrite the golden digests: only with a new stream version"
	@echo "make dist       wheel and sdist"
	@echo "make release-check  versions, wheel, sdist, metadata, and the README's first example in a new environment"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml setup.py $(CONSTRAINTS)
	@echo "installing into $(VENV): some minutes the first time"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c $(CONSTRAINTS) -e '.[dev]'
	@touch $@

demo: install
	$(BIN)/tritonparam init examples/tiny-llama.json --out demo/tiny-llama --overwrite
	$(BIN)/tritonparam inspect demo/tiny-llama

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m bench table --check README.md docs/benchmarks.md
	$(BIN)/python -m bench plot --check
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(ARGS)

test: install
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(ARGS)

test-gpu:
	$(PYTHON) -c "import torch; torch.cuda.init(); print(torch.cuda.get_device_name())"
	$(HERE) -m pytest --doctest-ignore-import-errors $(ARGS)

docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "site/index.html; the search needs a server: $(BIN)/python -m http.server --directory site"

bench: install
	@echo "all cases of this host's CPU: about 25 minutes on two cores; ARGS='--only TEXT' for some of them"
	$(BIN)/python -m bench --device cpu $(ARGS)

bench-readme: install
	$(BIN)/python -m bench table --write README.md docs/benchmarks.md
	$(BIN)/python -m bench plot

bench-gpu:
	@echo "all cases of a CUDA device: about 10 minutes on an H100; ARGS='--only TEXT' for some of them"
	$(HERE) -m bench --device cuda $(ARGS)

golden: install
	$(BIN)/python tools/golden.py

models: install
	@echo "about 2,000 models, three times each: about half an hour"
	-$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[models]'
	$(BIN)/python tools/count_models.py --write

faults: install
	TRITONPARAM_ALL=1 $(BIN)/python -m pytest tests/checkpoint/test_faults.py $(ARGS)

fuzz: install
	FUZZ=$(or $(FUZZ),60) $(BIN)/python -m pytest tests/fuzz -q $(ARGS)

dist: install
	$(BIN)/python -m build

release-check: install
	$(BIN)/python tools/release_check.py $(if $(TAG),--tag '$(TAG)') $(ARGS)
