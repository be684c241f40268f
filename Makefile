# `make demo`, `make test`, `make docs` and `make reliability`. The README and docs/reliability.md say what they do
# without make.
# `make test-oldest` and `make test-newest` run the tests with the oldest dependencies that pyproject.toml allows, best
# on the oldest Python, and with the newest that there are.
PYTHON ?= python3
OLDEST_PYTHON ?= $(shell python3.10 --version > /dev/null 2>&1 && echo python3.10 || echo $(PYTHON))
NEWEST_PYTHON ?= $(PYTHON)
BIN := .venv/bin
SHARED := --config configs/digits/digits.yaml
SOUPS := soups/digits

.PHONY: demo test test-oldest test-newest docs clean

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

test-oldest: .venv-oldest/installed
	.venv-oldest/bin/pytest

test-newest:
	$(NEWEST_PYTHON) -m venv .venv-newest
	.venv-newest/bin/pip install --upgrade --upgrade-strategy eager --editable '.[dev]'
	.venv-newest/bin/pytest

docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

# kills, damaged files, a soak run and deliberate breaks, for half an hour or more; JSON goes to reliability/
reliability: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.reliability --directory reliability

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --constraint constraints.txt --editable '.[dev]'
	touch .venv/installed

.venv-oldest/installed: pyproject.toml constraints/oldest.txt
	$(OLDEST_PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/pip install --constraint constraints/oldest.txt --editable '.[dev]'
	touch .venv-oldest/installed

clean:
	rm -rf .venv .venv-oldest .venv-newest soups site
