# Every target sets up what it needs: a virtual environment in .venv with the locked versions.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Where pip finds PyTorch without CUDA, which only Linux needs to be told. For a GPU: make TORCH_INDEX= setup
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH := torch==2.13.0

.PHONY: setup demo test browser-tests explore screenshots chaos oracles check format schema demo-model clean server worker deploy

setup: $(READY)

$(READY): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, found " + sys.version.split()[0] + "; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-deps --retries 0 $(TORCH) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $(READY)

demo: $(READY)  ## Describe every feature of the embedded model; leaves store/demo
	$(BIN)/circuit-insights run configs/demo.yaml

test: $(READY)  ## In the order of the folders, which has whole runs, the longest, at the beginning
	$(BIN)/python -m pytest -q -n auto --dist loadfile --no-loadscope-reorder -m "not slow and not browser"

browser-tests: $(READY)  ## The explorer in Debian's Chromium; no browser is downloaded
	@command -v chromium >/dev/null || { echo "Chromium is needed: apt-get install chromium"; exit 2; }
	$(BIN)/python -m pytest -q -m browser tests/explorer

explore: $(READY)  ## The demo in a browser, at http://127.0.0.1:8765; make demo first
	$(BIN)/circuit-insights serve --store store/demo

screenshots: $(READY)  ## docs/explorer-*.png anew, of the demo; make demo first
	@command -v chromium >/dev/null || { echo "Chromium is needed: apt-get install chromium"; exit 2; }
	$(BIN)/python -m tests.explorer.screenshots store/demo docs

chaos: $(READY)  ## Kill, fill, stop and mix up whatever can be, fifty times and more; ten minutes to half an hour
	$(BIN)/python -m tests.chaos

# The oracles are other people's implementations of the same science. Their pins conflict with ours.
ORACLES := .venv-oracles
oracles: $(READY)  ## Compare with independent implementations, in an environment of their own
	$(PYTHON) -m venv $(ORACLES)
	$(ORACLES)/bin/python -m pip install --quiet --no-deps --retries 0 $(TORCH) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
	$(ORACLES)/bin/python -m pip install --quiet -r tests/oracles/requirements.txt
	$(ORACLES)/bin/python -m pip install --quiet --no-deps fade-language==0.1.2  # what it imports is in requirements.txt, newer than its pins
	CIRCUIT_INSIGHTS_ORACLES=$(ORACLES)/bin/python $(BIN)/python -m pytest -q -m oracle

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

schema: $(READY)  ## Write docs/schema.md from storage/catalog/tables.py
	$(BIN)/python -c 'from storage.catalog.tables import schema_markdown; print(schema_markdown(), end="")' > docs/schema.md

POOL := circuit-insights
PORT ?= 4200
API := http://127.0.0.1:$(PORT)/api
export PREFECT_SERVER_ANALYTICS_ENABLED := false

server: $(READY)  ## Prefect's server and pages, on this machine alone
	PREFECT_SERVER_UI_API_URL=$(API) $(BIN)/prefect server start --host 127.0.0.1 --port $(PORT)

worker: $(READY)  ## Runs what is deployed, until stopped
	PREFECT_API_URL=$(API) $(BIN)/prefect worker start --pool $(POOL) --type process

deploy: $(READY)  ## Tell the server what can be run
	PREFECT_API_URL=$(API) $(BIN)/prefect work-pool create $(POOL) --type process --overwrite
	-PREFECT_API_URL=$(API) $(BIN)/prefect work-queue create store --pool $(POOL) --limit 1  # may be there already
	PREFECT_API_URL=$(API) CIRCUIT_INSIGHTS_HOME=$(CURDIR) \
		$(BIN)/prefect --no-prompt deploy --all --prefect-file deployments/prefect.yaml

demo-model: $(READY)  ## Train the demo's transcoders anew, and its model if demo/checkpoint is gone
	$(BIN)/python -m demo.make_demo_model

clean:
	rm -rf $(VENV) store
