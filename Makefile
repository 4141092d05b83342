# Two commands matter: `make run` and `make test`. Both build .venv first if it is missing or stale.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# Most tests wait for real processes rather than compute, so more of them than cores may run at once.
JOBS   ?= 4

.PHONY: run test check coverage bench soak format lock clean

run: $(STAMP)
	@$(BIN)/proxywatch run --with-services

test: $(STAMP)
	$(BIN)/python -m pytest tests -n $(JOBS) --dist worksteal --timeout 300

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m pytest tests/unit -n 2

# Every branch of the core has a test that always takes it: what generated cases happen to reach is not counted.
coverage: $(STAMP)
	$(BIN)/coverage run -m pytest tests/unit/core -m 'not hypothesis'
	$(BIN)/coverage report --fail-under=100

bench: $(STAMP)
	$(BIN)/python -m tests.bench

soak: $(STAMP)
	PROXYWATCH_HISTORIES=10 $(BIN)/python -m pytest --timeout 0 tests/unit/core/test_policy_histories.py \
	  tests/integration/healing/test_healing_histories.py
	PROXYWATCH_EVERY_KILL=1 $(BIN)/python -m pytest -n 2 tests/e2e/test_killed_watchdog.py
	$(BIN)/python -m tests.bench soak

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Writes constraints.txt anew from the newest versions that the lower bounds allow.
lock:
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install -q -e '.[dev]'
	$(VENV)-lock/bin/pip freeze --exclude-editable | sort -f > constraints.txt
	rm -rf $(VENV)-lock

clean:
	rm -rf $(VENV) build dist *.egg-info

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "proxywatch needs Python 3.11 or newer; this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
