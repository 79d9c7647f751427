# longtake: each target first sets up .venv; this needs Python >= 3.11, make and a C compiler.
#
#   make demo     render the demo film into out/demo, and measure it
#   make test     run the tests            (make test ARGS="-k clock -x"; in one process: ARGS=-n0)
#   make check    formatting, lint, types, import contracts
#   make setup    only set up .venv        (make setup PYTHON=python3.12)
#   make weights  train the shipped models on two cores, about four hours
#   make second-world  train the next built-in model, which is not shipped yet
#   make clean    remove .venv, out and caches

PYTHON ?= python3
ARGS ?=
# Processes that run the tests, 2 GB each: one for those that start clusters, which mostly wait, and one for each core.
PROCESSES ?= 3

VENV := .venv
READY := $(VENV)/.ready
# The packages under their import name, for tools that read files instead of importing them.
TREE := $(VENV)/tree
# Hide warnings, such as those about mirrors, but not errors.
PIP := $(VENV)/bin/python -m pip --quiet --quiet --disable-pip-version-check install

# Options for a second run of each model's last stage, from its result.
AGAIN := $(addprefix --set ,start=out/train/rollout/model.safetensors steps=1500 lr=6e-4 warmup_steps=100 \
    decay_fraction=0.85 seed=4)
LONG := $(addprefix --set ,start=out/train/upscaler/model.safetensors seed=2 steps=5000 batch_size=2 options.chunks=7 \
    options.change_weight=1.0 options.hidden=0.1 options.worn=0.3 decay_fraction=0.9 decay=cosine ema=0.998)

.PHONY: demo test check weights second-world setup clean

demo: setup
	$(VENV)/bin/longtake demo --no-open

test: setup
	$(VENV)/bin/python -m pytest -n $(PROCESSES) $(ARGS)

check: setup
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	@rm -rf $(TREE) && mkdir -p $(TREE)/longtake
	@for file in longtake/*.py longtake/py.typed pipeline actors jobs; do ln -sfn ../../../$$file $(TREE)/longtake/; done
	$(VENV)/bin/mypy
	cd $(TREE) && ../bin/lint-imports --no-logo --config ../../pyproject.toml

weights: setup
	$(VENV)/bin/longtake train codec --config configs/cpu/codec.yaml -o out/train/codec
	$(VENV)/bin/longtake train denoiser --config configs/cpu/denoiser.yaml -o out/train/denoiser
	$(VENV)/bin/longtake train rollout --config configs/cpu/rollout.yaml -o out/train/rollout
	$(VENV)/bin/longtake train rollout --config configs/cpu/rollout.yaml -o out/train/again $(AGAIN)
	$(VENV)/bin/python -m longtake.jobs.ship out/train/again/model.safetensors
	$(PIP) --editable '.[training]'
	$(VENV)/bin/longtake train upscaler --config configs/cpu/upscaler.yaml -o out/train/upscaler
	$(VENV)/bin/longtake train upscaler --config configs/cpu/upscaler.yaml -o out/train/upscaler-long $(LONG)
	$(VENV)/bin/python -m longtake.jobs.ship out/train/upscaler-long/model.safetensors upscaler

second-world: setup
	$(VENV)/bin/longtake train codec --config configs/cpu/second/codec.yaml -o out/train/second/codec
	$(VENV)/bin/longtake train denoiser --config configs/cpu/second/denoiser.yaml -o out/train/second/denoiser
	$(VENV)/bin/longtake train rollout --config configs/cpu/second/rollout.yaml -o out/train/second/rollout

setup: $(READY)

$(READY): requirements.lock pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "longtake needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true)." >&2; \
	    echo "Use another one: make $(or $(MAKECMDGOALS),setup) PYTHON=python3.12" >&2; exit 1; }
	@echo "Setting up $(VENV): about 3 minutes and 5.5 GB the first time"
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) --requirement requirements.lock
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

clean:
	rm -rf $(VENV) out build dist *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find actors jobs longtake pipeline tests -name __pycache__ -prune -exec rm -rf {} +
