# Every target installs what it needs into .venv first; with nothing changed, pip is not run again.
# PYTHON=python3.12 picks the Python for .venv. pip's default build of torch for Linux brings CUDA,
# several gigabytes; TORCH_INDEX=URL takes torch from the index of another build, such as PyTorch's
# own for CPUs. ARGS are passed on: make demo ARGS=--help

PYTHON ?= python3
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := -m pip install --disable-pip-version-check --constraint constraints.txt
INSTALL := $(BIN)/python $(PIP_INSTALL)
DEVICE_VENV := .venv-device-$(notdir $(PYTHON))

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-device test-gpu test-browser test-arm test-ort-1.23 lint format clean

help:  ## show this list
	@sed -n 's/^\([a-z0-9.-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(VENV)/.demo  ## a device and an edge on this machine write a text together
	@$(BIN)/tandem demo $(ARGS)

test: $(VENV)/.dev  ## the quick tests, on all cores
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal $(ARGS)

test-slow: $(VENV)/.dev  ## the tests marked slow
	$(BIN)/python -m pytest -m slow $(ARGS)

test-device: $(DEVICE_VENV)/.device  ## the device's tests without torch, on another PYTHON
	$(DEVICE_VENV)/bin/python -m pytest --numprocesses auto --dist worksteal \
		tests/device_runtime tests/hw_profiles $(ARGS)

test-gpu: $(VENV)/.dev  ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu $(ARGS)

test-browser: $(VENV)/.dev  ## the report's page in headless Chromium
	$(BIN)/python -m pytest -m browser $(ARGS)

test-arm: $(VENV)/.dev  ## the device's tests on emulated Cortex-A53, A72 and A76 (.arm, 0.6 GB)
	$(BIN)/python -m pytest -m arm -v -s tests/arm $(ARGS)

test-ort-1.23: $(VENV)/.dev  ## bundles on onnxruntime 1.23.2, the newest for JetPack 6
	$(BIN)/python -m pytest -m old_onnxruntime -v -s tests/arm $(ARGS)

lint: $(VENV)/.dev  ## format check, ruff, mypy, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev  ## format the code and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove .venv, builds and caches
	rm -rf $(VENV) .venv-device-* build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	rm -rf .hypothesis .demo .arm
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) or sys.maxsize < 2**32)' || \
		{ echo "$(PYTHON) must be a 64-bit Python 3.10 or newer; try: make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

# torch alone and without its dependencies, so that the second index is asked for nothing else.
$(VENV)/.torch: $(VENV)/.python constraints.txt
	$(INSTALL) --no-deps $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	@touch $@

$(VENV)/.demo: $(VENV)/.torch pyproject.toml
	$(INSTALL) --editable '.[device,edge,export]'
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(INSTALL) --editable '.[bench,dev]'
	@touch $@

$(DEVICE_VENV)/.device: pyproject.toml constraints.txt Makefile
	$(PYTHON) -m venv --clear $(DEVICE_VENV)
	$(DEVICE_VENV)/bin/python $(PIP_INSTALL) --editable '.[device]' \
		pytest pytest-aiohttp pytest-xdist hypothesis onnx rich
	@touch $@
