# `make demo` shows the product, `make test` tests it in some minutes, `make test-all` wholly; each sets
# everything up by itself.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
# The service computes on a GPU by the full environment, and on a CPU by its own without torch.
DEMO := $(if $(shell nvidia-smi -L 2>/dev/null | grep ^GPU),.venv,.venv-serve)
# Tests run side by side, two a core (tests/conftest.py); more threads in each would only wait for one
# another. Each of these processes takes neighbouring tests, so that most files start their services once.
PYTEST_OPTIONS ?= -n auto --dist worksteal

CYCLES ?= 200
SEED ?=
CUTS ?= 600

.PHONY: demo demo-camera docs gpu test test-slow test-all compose-test mutations torture power-cut load soak camera-soak machines fuzz milvus-env check lint release try-release format clean

demo: $(DEMO)/ready
	$(DEMO)/bin/gmn demo

# A camera from a clip to an alert: CLIP=phone.mp4 is your own, and drawn otherwise.
demo-camera: $(DEMO)/camera
	$(DEMO)/bin/gmn demo-camera $(CLIP)

# What the service does on a GPU, against the CPU, in 8 minutes: lines of JSON, and runs/gpu.json for
# docs/gpu.md. GPU_PYTHON is a Python with the packages of the extra `train`.
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,python3)
gpu:
	mkdir -p runs
	timeout 480 $(GPU_PYTHON) -m bench.gpu_check --out runs/gpu.json

test test-slow test-all: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PYTEST_OPTIONS) $(CHOSEN)

test: CHOSEN := -m "not slow"
test-slow: CHOSEN := -m slow

# Kills the service again and again, at random and at every failpoint, and holds what is left against
# a ledger of what was acknowledged; figures go to runs/torture.json.
torture: .venv/ready
	$(BIN)/python -m tests.torture.run --cycles $(CYCLES) $(if $(SEED),--seed $(SEED))

# Deploys by docs/operations.md and its neighbours, kills, upgrades, backs up and restores; COMPOSE names another compose
# command than `docker compose`.
compose-test: .venv/ready
	$(BIN)/python -m tests.compose.run

# Cuts the power of a recorded service at CUTS moments that SEED draws; writes runs/power_cut.json.
power-cut: .venv/ready
	CUTS=$(CUTS) SEED=$(or $(SEED),1) OMP_NUM_THREADS=1 $(BIN)/python -m pytest --timeout 3600 tests/power_cut

# Clients beyond what can be answered, and whether the service is well after them; LOAD_OPTIONS="--clients
# 40 --seconds 5" is a small one.
load: .venv/ready
	$(BIN)/python -m tests.load.run $(LOAD_OPTIONS)

# GMN_SOAK_MINUTES (30) at 80 % of what the service can do: memory and open files must not grow.
soak: .venv/ready
	$(BIN)/python -m tests.load.soak $(SOAK_OPTIONS)

# An hour of a camera, whose stream is cut and whose service is killed twenty times each;
# SOAK_OPTIONS="--clip phone.mp4 --minutes 5 --outages 2" is a short one of your own clip.
camera-soak: .venv/ready
	$(BIN)/python -m tests.load.camera_soak $(SOAK_OPTIONS)

# Two machines on one record in PostgreSQL, whose services and server are killed, also behind HAProxy if
# it is installed, stand still, or are put back, and whose standby is promoted, also after it was away;
# MACHINES_OPTIONS="--processes 5 --servers 3 --pauses 1 --promotions 1 --proxied 2 --cuts 4 --stops 1
# --copies 1" is a short run.
machines: .venv/ready
	$(BIN)/python -m tests.machines.run $(MACHINES_OPTIONS)

# Breaks each promise on purpose and sees its test fail; MUTATIONS_OPTIONS='--only "a commit"' runs a part.
mutations: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.mutations.run $(MUTATIONS_OPTIONS)

# Each target for so many seconds; what is found is kept below runs/fuzz.
SECONDS ?= 120
FUZZ := images archives manifests forms
fuzz: .venv/ready
	for target in $(FUZZ); do \
		$(BIN)/python -m tests.fuzz.$$target --seconds $(SECONDS) --artefacts runs/fuzz/$$target || exit 1; \
	done

# Asks a registry, so no other target depends on it.
check: lint
	git ls-files -z | xargs -0 $(BIN)/detect-secrets-hook --baseline .secrets.baseline
	$(BIN)/python -m tests.check.audit
	$(BIN)/python -m tests.check.ages

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --python-version 3.10 -p gmn_client

# The pages as a site in build/site; a link that leads nowhere is an error.
docs: .venv-docs/ready
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict

# The packages of this version in dist, checked, with a list of those of each environment and image.
# VERSION=1.2.0 sets the version first, and keeps the format of its record for the tests of later ones.
release: .venv/ready .venv-release/ready
	$(if $(VERSION),$(BIN)/python -m bench.repeated $(VERSION) && $(BIN)/python -m bench.frozen_format)
	$(BIN)/python -m bench.release dist

# The README's three ways with what `make release` wrote, each from nothing; TRY_OPTIONS="--engine podman".
try-release: .venv/ready .venv-release/ready
	$(BIN)/python -m bench.three_ways dist $(TRY_OPTIONS)

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Python compiles modules when they are first imported. Images of containers often tell it not to keep
# them, and each process of the tests would compile for seconds. pip would compile all modules; the last
# command of an environment compiles what a service imports, before its first start.
unexport PYTHONDONTWRITEBYTECODE
INSTALL := pip install --quiet --disable-pip-version-check --no-compile
.venv/ready: requirements.txt
.venv-serve/ready: requirements-serve.txt
.venv/ready .venv-serve/ready: pyproject.toml gmn_client/pyproject.toml
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m $(INSTALL) -r $(filter requirements%,$^)
	$(@D)/bin/python -m $(INSTALL) --no-deps -e ./gmn_client -e .
	$(@D)/bin/python -c "import service.app; from model.openvino_loading import load_openvino; load_openvino()"
	touch $@

.venv/camera: .venv/ready
	touch $@

# What `gmn camera` needs beside the service.
.venv-serve/camera: .venv-serve/ready requirements-camera.txt
	$(@D)/bin/python -m $(INSTALL) -r requirements-camera.txt
	touch $@

.venv-docs/ready: requirements-docs.txt
.venv-release/ready: requirements-release.txt
.venv-docs/ready .venv-release/ready:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m $(INSTALL) -r $<
	touch $@

# The two Milvus servers of the tests: milvus-lite, and a real Milvus for slow tests, each in an
# environment of its own below .milvus.
milvus-env:
	for server in "lite milvus-lite==3.2.2 pymilvus==3.0.2" "real milvus==2.3.5"; do set -- $$server; \
		$(PYTHON) -m venv .milvus/$$1 && folder=$$1 && shift && \
		.milvus/$$folder/bin/python -m $(INSTALL) "$$@" || exit 1; \
	done

clean:
	rm -rf .venv .venv-serve .venv-docs .venv-release build/site dist runs demo-output gmn-data .pytest_cache .mypy_cache .ruff_cache .hypothesis
