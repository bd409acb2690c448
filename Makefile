# Two commands do everything on a fresh clone: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LEAN := $(VENV)/.lean
READY := $(VENV)/.ready
DOCS := $(VENV)/.docs
# Pip, not another installer: constraints.txt pins a torch whose CPU build pip finds; without the pin gigabytes of CUDA libraries come along.
# Bytecode is made by as many processes as there are cores, that of PyTorch while pip, which has one, unpacks the rest. It must be made: where
# PYTHONDONTWRITEBYTECODE is set, as in many containers, every process would else compile all of PyTorch anew. Nobody imports the packages' own tests; templates
# that some bring are no Python, and do no harm.
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
COMPILE = ($(BIN)/python -m compileall -q -j 0 -x '/(tests?|testing/_internal)/' $(1) >/dev/null 2>&1 || true)
FIRST := torch sympy

# What the demo needs is installed alone; what the tests and checks need beside it, when they are first asked for.
.PHONY: demo docs test check lint format install clean

$(LEAN): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(call COMPILE,$(FIRST:%=$(VENV)/lib/python3*/site-packages/%)) & $(PIP) -e . || exit 1; wait; $(call COMPILE,$(VENV)/lib)
	touch $@

$(READY): $(LEAN)
	$(PIP) -e '.[dev]'
	$(call COMPILE,$(VENV)/lib)
	touch $@

$(DOCS): $(LEAN)
	$(PIP) -e '.[docs]'
	$(call COMPILE,$(VENV)/lib)
	touch $@

install: $(READY)

demo: $(LEAN)
	$(BIN)/laconic optimize digits --max-drop 0.5 --time-limit 5m

# The pages of docs/ and the reference of the public names as a site in site/; an unknown link or name is an error.
docs: $(DOCS)
	$(BIN)/mkdocs build --strict --quiet

# Two files at a time, in the order of tests/conftest.py; each process computes on one thread, so that they do not fight over the cores.
test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) site .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
