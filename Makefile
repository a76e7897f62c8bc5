# Everything runs in .venv, made on first use; `make run` and `make test` need nothing but make and Python 3.11.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: fits run test check bench docs clean

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "no venv: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(STAMP)

run: $(STAMP)
	$(BIN)/sparsesim run scenarios/quickstart.yaml

test: $(STAMP)
	$(BIN)/python -m pytest -n 2

check: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n 2

bench: $(STAMP)
	set -e; for script in benchmarks/*.py; do echo $$script; $(BIN)/python $$script; done

# What documents take from the code: schema, equations, table of errors, picture.
docs: $(STAMP)
	$(BIN)/python docs/generate.py

# Re-make every fitted number in the repository from the measured and published rows in it (about 6 minutes).
fits: $(STAMP)
	$(BIN)/sparsesim fit calibration/data/h100-sxm --profile h100-sxm
	$(BIN)/sparsesim fit calibration/data/h200-sxm --profile h200-sxm
	$(BIN)/sparsesim fit --engine vllm
	$(BIN)/sparsesim fit --engine tensorrt-llm
	$(BIN)/python -m sparsesim.cost.network.fit
	$(BIN)/python -m sparsesim.cost.neuromorphic.fit
	$(BIN)/python -m sparsesim.cost.edge.mlc
	$(BIN)/python -m sparsesim.cost.edge.framework
	$(BIN)/python -m sparsesim.cost.edge.consumer

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
