# `make demo` shows the product, `make test` proves it; both set everything up by themselves.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# Tests run side by side, one a core; more threads in each would only wait for one another.
PYTEST_OPTIONS ?= -n auto

CYCLES ?= 200
SEED ?=
CUTS ?= 600

.PHONY: demo test compose-test power-cut mutations torture load soak lint format clean

demo: .venv/ready
	$(BIN)/gmn demo

test: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_OPTIONS)

# Kills the service and Redis again and again, at random and at every failpoint, and holds what is
# left against a ledger of what was acknowledged; figures go to runs/torture.json.
torture: .venv/ready
	$(BIN)/python -m tests.torture.run --cycles $(CYCLES) $(if $(SEED),--seed $(SEED))

# Deploys by docs/operations.md, kills, upgrades, backs up and restores; COMPOSE names another compose
# command than `docker compose`.
compose-test: .venv/ready
	$(BIN)/python -m tests.compose.run

# Cuts the power of a recorded service at CUTS moments that SEED draws; writes runs/power_cut.json.
power-cut: .venv/ready
	CUTS=$(CUTS) SEED=$(or $(SEED),1) OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/power_cut

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

clean:
	rm -rf .venv runs demo-output gmn-data .pytest_cache .mypy_cache .ruff_cache .hypothesis
