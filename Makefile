# Two commands are enough on a fresh machine with Python 3.11+: `make serve` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA ?= ../shared/data
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock

.PHONY: help serve test simulate check format train load lock clean
help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

serve: $(VENV)/.service ## run the service with the shipped model on http://127.0.0.1:8000 (OPTIONS="--port 9000")
	$(BIN)/dermserve $(OPTIONS)

# Two workers (tests/conftest.py); threads of a training that wait must not spin on the other worker's core.
test: $(VENV)/.everything system ## run all tests (OPTIONS="-k batcher")
	DERMSERVE_DATA="$${DERMSERVE_DATA:-$(DATA)}" OMP_WAIT_POLICY=passive $(BIN)/python -m pytest --numprocesses 2 $(OPTIONS)

simulate: $(VENV)/.everything ## 100,000 schedules through the batcher, in virtual time (OPTIONS="--seed 2")
	$(BIN)/python -m tests.simulation $(OPTIONS)

check: $(VENV)/.everything ## lint, format, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.everything ## bring the code into its format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

train: $(VENV)/.everything ## train, evaluate and publish the shipped network (about four hours on two cores; resumes where it stopped)
	$(BIN)/dermserve-train training/configs/baseline.toml --data $(DATA) --store runs/store --resume --train-only
	$(BIN)/dermserve-train training/configs/finetune.toml --data $(DATA) --store runs/store --resume --train-only
	$(BIN)/dermserve-train training/configs/robust.toml --data $(DATA) --store runs/store --resume --train-only
	$(BIN)/dermserve-train training/configs/distilled.toml --data $(DATA) --store model_store/models --resume $(OPTIONS)

load: $(VENV)/.service $(VENV)/.loadtest ## start the service, load it at half its capacity, report (OPTIONS="--share 2 --expect-refusals")
	$(BIN)/dermserve-loadtest $(OPTIONS) --start-service

lock: ## write requirements.lock anew from the newest versions
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet torch==2.13.0 && build/lock/bin/python -m pip install --quiet -e '.[training,loadtest,locust,test]'
	build/lock/bin/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > requirements.lock

clean: ## remove what the targets made, but no training run
	rm -rf $(VENV) build dist *.egg-info loadtest-report

.PHONY: system
system: ## chromium, prometheus and wrk for the tests, where this machine can install them
	sh tests/install-system-packages.sh

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.service: $(VENV)/bin/python pyproject.toml requirements.lock
	$(PIP) --editable .
	touch $@

$(VENV)/.loadtest: $(VENV)/.service
	$(PIP) --editable '.[loadtest]'
	touch $@

# torch first and by its exact version: any other request for it would fetch gigabytes of GPU libraries.
$(VENV)/.everything: $(VENV)/.service
	$(PIP) torch==2.13.0
	$(PIP) --editable '.[training,loadtest,locust,test]'
	touch $@ $(VENV)/.loadtest
