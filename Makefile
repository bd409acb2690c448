# Two commands do everything on a fresh clone: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LEAN := $(VENV)/.lean
READY := $(VENV)/.ready
DOCS := $(VENV)/.docs
# Pip, not another installer: constraints.txt pins a torch whose CPU build pip finds; without the pin gigabytes of CUDA libraries come along.
# Bytecode is made afterwards, by as many processes as there are cores. It must be made: where PYTHONDONTWRITEBYTECODE is set, as in many containers, every process
# would else compile all of PyTorch anew. Some packages bring templates that are no Python; they do no harm.
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
COMPILE := $(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null 2>&1 || true

# What the demo needs is installed alone; what the tests and checks need beside it, when they are first asked for.
.PHONY: demo docs test check lint format install clean

$(LEAN): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	$(COMPILE)
	touch $@

$(READY): $(LEAN)
	$(PIP) -e '.[dev]'
	$(COMPILE)
	touch $@

$(DOCS): $(LEAN)
	$(PIP) -e '.[docs]'
	$(COMPILE)
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
