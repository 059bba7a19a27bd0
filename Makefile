# make demo: the whole road on the shipped corpus (INPUT='glob of WARC files' for your own pages).
# make quick: while you work, a minute: lint, and the tests without Ray, vLLM and processes of their own.
# make test: what CI runs, with the same examples each time; make test-all adds the slow tests and draws new examples.
# make gpu: on a machine with a GPU, ten minutes: kernels, training steps, a checkpoint, PPO, the tests that need a GPU,
# nano; figures in gpu.json. All other tests see no GPU. All set up .venv first; nothing comes before them but Python 3.11,
# make and a C++ compiler, and on machines with NVIDIA GPUs driver 580 or later.
# make fuzz: all that comes from outside, damaged and made up, for half an hour (FUZZ_MINUTES).
# make docs: a site of these pages and of every module, from its docstrings, in site/; make api: the latter, in site/api/.
# make real-model: SmolLM2-135M-Instruct in .real-model, for the tests and benchmarks that start from a real model.
# make peers: our alignment arithmetic against verl, OpenRLHF and XTuner, which get an environment of their own.

PYTHON ?= python3.11
VENV := .venv
EVAL := .venv-eval
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -q
PEERS := .venv-peers
REAL_MODEL := .real-model/SmolLM2-135M-Instruct
RUN_DIR ?= runs/demo
INPUT ?=
FUZZ_MINUTES ?= 30
SETTINGS ?=
GPU := $(shell command -v nvidia-smi 2>/dev/null)
LOCK := requirements-$(if $(GPU),gpu,cpu).lock
TORCH := $(shell sed -n 's/.*"\(torch==.*\)".*/\1/p' pyproject.toml)
# The locks are installed without dependencies. PyPI's torch is the CUDA build, which cannot be imported without its
# CUDA libraries, which the lock for CPUs leaves out: pip then adds what torch itself asks for.
complete_torch = $(1)/bin/python -c 'import torch' 2>/dev/null || $(1)/bin/pip install --quiet $(TORCH)

.PHONY: demo quick test test-all gpu chaos fuzz api docs peers real-model lint format setup lock eval-env eval-lock sbom audit clean
export DS_BUILD_OPS := 0
# pytest keeps the tests that it has rewritten, which saves seconds at each start.
unexport PYTHONDONTWRITEBYTECODE

setup: $(VENV)/.ready

$(VENV)/.ready: $(LOCK)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-deps --no-compile -r $(LOCK)
	$(call complete_torch,$(VENV))
	$(BIN)/pip install --quiet --no-deps --no-build-isolation -e .
	@# Compiling bytecode and numba's loops side by side saves time at the first start.
	$(BIN)/python -m compileall -q -j 2 $(VENV)/lib > /dev/null 2>&1 & \
	$(BIN)/python -m cluster.prebuild; status=$$?; wait; exit $$status
	touch $@

demo: setup
	$(BIN)/python jobs/pipeline.py --preset nano --run-dir $(RUN_DIR) $(if $(INPUT),input='$(INPUT)') $(SETTINGS)

quick: lint
	$(PYTEST) -m quick -n 2 --dist loadfile --hypothesis-profile=quick

# Two workers. Tests that need Ray run one after the other on one of them, so do those with ranks or vLLM.
test: setup
	$(PYTEST) -n 2 --dist loadgroup --durations=25 --hypothesis-profile=ci

test-all: setup
	$(PYTEST) -m ''

gpu: setup
	$(BIN)/python -m benchmarks.gpu --out gpu.json

# Every input from outside, with new hostile examples for FUZZ_MINUTES; what fails is kept in .hypothesis and tried first
# the next time.
fuzz: setup
	FUZZ_MINUTES=$(FUZZ_MINUTES) $(PYTEST) -s tests/fuzz --timeout=0

peers: setup $(PEERS)/.ready
	$(PEERS)/bin/python -m pytest -q tests/peers

# Reading GGUF takes two packages that nothing else needs.
real-model: $(REAL_MODEL)/config.json

$(REAL_MODEL)/config.json: | setup
	$(PYTHON) -m venv .venv-gguf
	realpath $(VENV)/lib/python3*/site-packages > $$(echo .venv-gguf/lib/python3*/site-packages)/zz_ours.pth
	.venv-gguf/bin/pip install --quiet --no-deps gguf==0.19.0 accelerate==1.15.0
	.venv-gguf/bin/python -m benchmarks.real_model --out $(REAL_MODEL)
	rm -rf .venv-gguf

# Pages of every module in site/, for a browser, without a network. pdoc imports what it shows, so it looks into our
# environment; OpenCompass's side of the evaluation can only be imported in .venv-eval and is left out.
api: setup .venv-docs/.ready
	rm -rf site/api
	.venv-docs/bin/python -m pdoc --template-directory docs --output-directory site/api ilm_ray actors jobs \
	    '!ilm_ray.evaluation.opencompass'

docs: .venv-docs/.ready
	rm -rf site
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet --strict --config-file - < docs/site.yml
	$(MAKE) api

.venv-docs/.ready: Makefile
	$(PYTHON) -m venv .venv-docs
	realpath $(VENV)/lib/python3*/site-packages > $$(echo .venv-docs/lib/python3*/site-packages)/zz_ours.pth
	.venv-docs/bin/pip install --quiet --no-deps pdoc==16.0.0 markdown2==2.5.5
	.venv-docs/bin/pip install --quiet mkdocs-material==9.8.2
	touch $@

# Whatever the peers need that we have too is taken from our environment, behind theirs on the path.
$(PEERS)/.ready: tests/peers/requirements.txt
	$(PYTHON) -m venv $(PEERS)
	realpath $(VENV)/lib/python3*/site-packages > $$(echo $(PEERS)/lib/python3*/site-packages)/zz_ours.pth
	$(PEERS)/bin/pip install --quiet --no-deps --no-compile -r $<
	touch $@

# Faults against stages, and a table of what became of each; RUNS more than there are go on where the last ones ended.
chaos: setup
	$(BIN)/python -m tests.chaos.table --base $(RUN_DIR) $(if $(RUNS),--runs $(RUNS))

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Resolve the pins of pyproject.toml anew: for CPUs, then for GPUs with the same versions of what is in both.
lock: setup
	$(BIN)/python -m cluster.lock cpu > requirements-cpu.lock.new
	mv requirements-cpu.lock.new requirements-cpu.lock
	$(BIN)/python -m cluster.lock gpu > requirements-gpu.lock.new
	mv requirements-gpu.lock.new requirements-gpu.lock

# What the CPU environment consists of, as CycloneDX (sbom.json), and which of it has known vulnerabilities. The tools
# get an environment of their own. `audit` asks PyPI's vulnerability database, so it needs a network.
sbom: .venv-audit/.ready
	.venv-audit/bin/cyclonedx-py requirements requirements-cpu.lock --output-file sbom.json

audit: .venv-audit/.ready
	.venv-audit/bin/pip-audit --no-deps --disable-pip --requirement requirements-cpu.lock

.venv-audit/.ready:
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/pip install --quiet cyclonedx-bom==7.5.0 pip-audit==2.10.1
	touch $@

# OpenCompass's own environment: its pins exclude ours. The same Python and the same Ray, whose workers run in it.
eval-env: $(EVAL)/.ready

$(EVAL)/.ready: requirements-eval.lock
	$(PYTHON) -m venv $(EVAL)
	$(EVAL)/bin/pip install --quiet --no-deps --no-compile -r requirements-eval.lock
	$(call complete_torch,$(EVAL))
	-$(EVAL)/bin/python -m compileall -q -j 2 $(EVAL)/lib > /dev/null 2>&1
	touch $@

# Resolve its pins anew.
eval-lock: setup
	$(BIN)/python -m cluster.lock eval > requirements-eval.lock.new
	mv requirements-eval.lock.new requirements-eval.lock

clean:
	rm -rf $(VENV) $(EVAL) $(PEERS) .venv-audit .venv-docs .venv-gguf .real-model site sbom.json runs .mypy_cache .ruff_cache .pytest_cache
