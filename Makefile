# make demo   shows the whole thing       make test   runs every test
# make check  lints and type-checks       make bench  measures (make bench-peers: installs what it compares with)
# make fuzz   puts a million damaged packets through the decoders
PYTHON ?= python3
VENV   ?= .venv
PEERS  := .venv-bench
BIN    := $(VENV)/bin

.PHONY: demo test check bench bench-peers fuzz generate clean

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

bench-peers: $(PEERS)/.installed

fuzz: $(VENV)/.installed
	$(BIN)/python -m tests.fuzz

# torch may be a build of several gigabytes: nothing else is installed with it, and nothing else needs it.
$(PEERS)/.installed: constraints-bench.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-bench.txt captum onnx-ad onnxscript shap torch
	touch $@

generate: $(VENV)/.installed
	$(BIN)/python tests/generate.py
	$(BIN)/python tests/operators.py

clean:
	rm -rf $(VENV) out build dist
