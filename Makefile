# Two commands: `make demo` and `make test`. The README says what they do without make.
PYTHON ?= python3
BIN := .venv/bin
SHARED := --config configs/digits/digits.yaml
SOUPS := soups/digits

.PHONY: demo test clean

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

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --constraint constraints.txt --editable '.[dev]'
	touch .venv/installed

clean:
	rm -rf .venv soups
