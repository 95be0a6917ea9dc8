# Two commands matter: `make demo` and `make test`. Each makes the virtual environment it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-all spec bench bench-quick chaos lint format clean .venv
# Of `make chaos`: how long, and the seed of its schedule (default: a new one).
MINUTES ?= 5
SEED ?=

.venv: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/rayraft demo

test: $(STAMP)
	$(BIN)/python -m pytest -m 'not slow and not cluster' -n auto --dist loadscope
	$(BIN)/python -m pytest -m 'not slow and cluster'

test-all: $(STAMP)
	$(BIN)/python -m pytest

spec: $(STAMP)
	$(BIN)/python -m pytest --durations=0 tests/spec

bench: $(STAMP)
	$(BIN)/rayraft bench --only all --repeats 3 --html bench-out

bench-quick: $(STAMP)
	$(BIN)/rayraft bench quick

chaos: $(STAMP)
	$(BIN)/rayraft chaos --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) demo-out bench-out chaos-out .pytest_cache .mypy_cache .ruff_cache
