# make demo   shows the whole thing       make test   runs every test
# make check  lints and type-checks       make bench  measures
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: demo test check bench generate clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/tonescope demo --out out/demo

test: $(VENV)/.installed
	$(BIN)/python -m pytest

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/buf lint proto

bench: $(VENV)/.installed
	$(BIN)/python -m tests.bench

generate: $(VENV)/.installed
	$(BIN)/python tests/generate.py

clean:
	rm -rf $(VENV) out build dist
