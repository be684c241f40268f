# `make demo`, `make test` and `make docs`. The README says what they do without make.
PYTHON ?= python3
BIN := .venv/bin
SHARED := --config configs/digits/digits.yaml
SOUPS := soups/digits

.PHONY: demo test docs clean

demo: .venv/installed
	$(BIN)/lightning-soup fit $(SHARED) --config configs/digits/pretrain.yaml
	$(BIN)/lightning-soup sweep $(SHARED) --config configs/digits/sweep.yaml
	$(BIN)/lightning-soup cook $(SHARED) --ingredients $(SOUPS) --recipe UniformSoup
	$(BIN)/lightning-soup cook $(SHARED) --ingredients $(SOUPS) --recipe GreedySoup
	$(BIN)/python -m lightning_soups.demos.compare --dirpath $(SOUPS)

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest

docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --constraint constraints.txt --editable '.[dev]'
	touch .venv/installed

clean:
	rm -rf .venv soups site
