# Every target sets up what it needs: a virtual environment in .venv with the locked versions.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Where pip finds PyTorch without CUDA, which only Linux needs to be told. For a GPU: make TORCH_INDEX= setup, which takes
# PyTorch and NVIDIA's libraries from PyPI as they are now: no file of ours knows their hashes.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH := $(if $(TORCH_INDEX),--no-deps --require-hashes -r requirements-torch.lock --extra-index-url $(TORCH_INDEX),torch==2.13.0)

.PHONY: gpu wheels docs reference setup lock demo test quick-tests end-to-end-tests slow-tests browser-tests explore screenshots chaos oracles check format schema demo-model clean server worker deploy

setup: $(READY)

LOCKS := requirements.lock requirements-torch.lock requirements-setup.lock
HASHED := --no-deps --require-hashes
UV := $(BIN)/uv --system-certs pip

# For minutes the tools of set-up say nothing: a dot every four seconds says that they are at it.
ALIVE := { while sleep 4 && kill -0 $$$$; do printf .; done 2>/dev/null & }; dots=$$!; \
	trap 'kill $$dots; echo' EXIT; trap 'exit 130' INT TERM;

# uv does not read pip's configuration: where only pip knows the way to the packages, pip installs them. The mode `compat`
# is a path alone; the other imports a finder, 20 ms of every process, in which Ctrl-C is a traceback.
$(READY): pyproject.toml $(LOCKS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, found " + sys.version.split()[0] + "; set PYTHON=")'
	@echo "Set-up, 1 of 4: a virtual environment in $(VENV)"
	@$(ALIVE) $(PYTHON) -m venv $(VENV) && $(BIN)/python -m pip install --quiet $(HASHED) -r requirements-setup.lock
	@echo "Set-up, 2 of 4: PyTorch"
	@$(ALIVE) $(BIN)/python -m pip install --retries 0 $(TORCH)
	@echo "Set-up, 3 of 4: locked packages"
	@$(ALIVE) $(UV) install --python $(BIN)/python $(HASHED) --compile-bytecode -r requirements.lock || \
		{ echo "uv could not; pip does it, which takes longer"; $(BIN)/python -m pip install $(HASHED) -r requirements.lock; }
	@echo "Set-up, 4 of 4: Circuit Insights"
	@$(ALIVE) $(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --no-index --config-settings editable_mode=compat --editable . && \
		$(BIN)/python -m pip check && $(BIN)/python -m interp.kernels.compile
	@touch $(READY)

lock:  ## Write the hashes of the versions in requirements.lock anew; wants the uv of an earlier set-up
	@{ sed -n '/^#/p' requirements.lock; \
		sed -n 's/^\([A-Za-z0-9][^ ]*==[^ ]*\).*/\1/p' requirements.lock | \
		$(UV) compile --quiet --generate-hashes --no-deps --no-annotate --no-header --universal --python-version 3.11 -; \
	} > requirements.lock.new
	@mv requirements.lock.new requirements.lock

demo: $(READY)  ## Describe every feature of the embedded model; leaves store/demo
	$(BIN)/circuit-insights run configs/demo.yaml

# A process a core, and in each one thread: threads of several processes on the same cores wait for one another, and spin.
TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist loadfile --no-loadscope-reorder

test: $(READY)  ## All but whole runs; under four minutes on two cores
	$(TESTS) -m "not slow and not browser and not whole" --durations=15

quick-tests: $(READY)  ## The science and the configuration; under a minute
	$(TESTS) -m "not slow and not whole" tests/interp tests/configs

end-to-end-tests: $(READY)  ## Whole runs, kills, buckets and servers; ten minutes
	$(TESTS) -m "whole and not slow" --durations=15

slow-tests: $(READY)  ## What takes minutes, or has to be alone: deployments, memory, bit flips, fuzz
	$(BIN)/python -m pytest -q -m slow

browser-tests: $(READY)  ## The explorer in Debian's Chromium; no browser is downloaded
	@command -v chromium >/dev/null || { echo "Chromium is needed: apt-get install chromium"; exit 2; }
	$(BIN)/python -m pytest -q -m browser tests/explorer

# A borrowed GPU is at hand for minutes: limits in seconds, and what is measured is in gpu.jsonl line by line. WHEELS is a
# folder that `make wheels` filled, for machines without network; without it packages come from the network.
WHEELS ?=
OFFLINE := $(if $(WHEELS),PIP_NO_INDEX=1 PIP_FIND_LINKS=$(abspath $(WHEELS)) UV_NO_INDEX=1 UV_FIND_LINKS=$(abspath $(WHEELS)))

gpu:  ## Set up, tests and benchmarks on one GPU, within twelve minutes
	$(OFFLINE) $(MAKE) TORCH_INDEX= setup
	timeout 200 $(BIN)/python -m pytest -q -m gpu tests/tasks/test_devices.py || echo "tests on the GPU: failed, or longer than 200 s"
	$(BIN)/python -m benchmarks.gpu --seconds 400 --out gpu.jsonl

wheels:  ## Fill wheels/ with all packages, PyTorch for NVIDIA's GPUs among them: 4 GB, for `make gpu WHEELS=wheels` elsewhere
	$(PYTHON) -m pip download --quiet --dest wheels $(HASHED) -r requirements-setup.lock
	$(PYTHON) -m pip download --quiet --dest wheels $(HASHED) -r requirements.lock
	$(PYTHON) -m pip download --quiet --dest wheels torch==2.13.0

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
	$(ORACLES)/bin/python -m pip install --quiet --retries 0 $(TORCH)
	$(ORACLES)/bin/python -m pip install --quiet -r tests/oracles/requirements.txt
	$(ORACLES)/bin/python -m pip install --quiet --no-deps eai-delphi==0.1.3  # it asks for vllm; its reader needs what is in requirements.txt
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

schema: $(READY)  ## Write docs/schema.md from storage/catalog/
	$(BIN)/python -c 'from storage.catalog.schema_page import schema_markdown; print(schema_markdown(), end="")' > docs/schema.md

reference: $(READY)  ## Write the pages that follow from the code: commands, settings, tables
	$(BIN)/python -m docs.reference
	$(MAKE) schema

# The site's builder pins versions of its own.
DOCS := .venv-docs
docs: $(READY)  ## The documentation as a site in site/; a broken link fails
	@test -x $(DOCS)/bin/mkdocs || { $(PYTHON) -m venv $(DOCS) && $(DOCS)/bin/python -m pip install --quiet -r docs/requirements.txt; }
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build --strict

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

clean:  ## Remove the virtual environment; results in store/ stay, and with them answers that were paid for
	rm -rf $(VENV)
