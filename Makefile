# The README's commands. Each sets up what it needs: Python >= 3.11 is all a machine must have.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check -q

.PHONY: run test lint docs dist lock
.DELETE_ON_ERROR:
unexport PYTHONDONTWRITEBYTECODE  # without compiled files every start takes twice as long

run: $(VENV)/.installed
	$(BIN)/fluxen serve $(ARGS)

$(VENV)/.installed: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Fluxen needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 …")'
	@echo "installing into $(VENV) …"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install --require-hashes -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed tests/requirements.lock
	@echo "installing what the tests need …"
	@$(PIP) install --require-hashes -r tests/requirements.lock
	@touch $@

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Help texts and tables of keys in docs/, made from the code.
docs: $(VENV)/.installed-dev
	$(BIN)/python tests/write_docs.py

# SIGKILL to writers, compactors and repricings under load, at random and at every commit point, then to the processes of a whole
# gateway; counts what is missing or doubled.
.PHONY: kill
kill: $(VENV)/.installed
	$(BIN)/python tests/ledger/kill.py --kills 60 $(ARGS)
	PYTHONPATH=tests $(BIN)/python tests/gateway/kill.py --kills 50 $(ARGS)

# Ten minutes of everything that clients and upstreams do, at 100 requests a second; then nothing has grown or is missing.
.PHONY: soak
soak: $(VENV)/.installed
	PYTHONPATH=tests $(BIN)/python tests/gateway/soak.py $(ARGS)

# Heads, whole connections, configurations: made up, bent and judged. Ends with 1 when something is found.
SECONDS ?= 600
.PHONY: fuzz
fuzz: $(VENV)/.installed-dev
	PYTHONPATH=tests $(BIN)/python -m fuzz --seconds $(SECONDS) $(ARGS)

# CPU per request and chunk, memory per stream: nginx, a minimal aiohttp relay and Fluxen in one run (needs nginx, wrk);
# then keys, the ledger and the analyzer by themselves. Figures as JSON in dist/.
.PHONY: bench
bench: $(VENV)/.installed-dev
	@mkdir -p dist
	$(BIN)/python tests/bench/gateway.py --json dist/bench-gateway.json $(ARGS)
	$(BIN)/python tests/bench/https.py
	$(BIN)/python tests/bench/keys.py
	$(BIN)/python tests/bench/ledger.py
	$(BIN)/python tests/bench/live.py
	$(BIN)/python tests/bench/analyzer.py
	$(BIN)/python tests/bench/counting.py

# Everything a release consists of, in dist/: the executable as one file and as a folder, a Debian package, wheel, licences,
# bill of materials, sums. As root with mmdebstrap it is made in an old Debian, so that older systems run it.
dist: $(VENV)/.installed
	$(BIN)/python packaging/build.py $(ARGS)

# What `make dist` made, with an empty environment, from another folder, in fresh systems without Python.
.PHONY: smoke
smoke: $(VENV)/.installed-dev
	$(BIN)/python -m pytest packaging/smoke --binary dist/fluxen --binary dist/fluxen-folder/fluxen $(ARGS)

# The container image, built and run without Docker where that can be done (root, apt), else only linted.
.PHONY: image
image: $(VENV)/.installed-dev
	packaging/container.sh

# Resolve anew (needs uv): these locks are the only versions that are installed anywhere.
LOCK := uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url -q
lock:
	$(LOCK) --extra build -o requirements.lock
	$(LOCK) --extra build --extra dev -c requirements.lock -o tests/requirements.lock
	$(LOCK) --extra build --extra freeze -c requirements.lock -o packaging/requirements.lock
