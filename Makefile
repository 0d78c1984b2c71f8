# Linux and macOS, from a fresh clone. Needs python3 (3.9 or newer, with venv), make and a C++ compiler; cmake and ninja
# come from the package index when the system has none.
#
# Options of llama.cpp go where its users expect them:   CMAKE_ARGS="-DGGML_CUDA=on" make clean setup

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
# cmake and ninja from the package index, for builds outside pip
export PATH := $(CURDIR)/$(BIN):$(PATH)

UPSTREAM := vendor/llama_cpp.pin vendor/fetch.py
SOURCES  := pyproject.toml CMakeLists.txt vendor/apply.py compresskv_edge/version.py \
            $(wildcard patches/*.patch compresskv_edge/csrc/* compresskv_edge/csrc/*/* compresskv_edge/model/weights/* profiles/*.json)

.PHONY: help setup demo clean FORCE
.PHONY: test test-real test-arm test-windows build-vulkan test-vulkan build-cuda test-cuda bench-cuda
.PHONY: cuda-bundle rehearse-bundle
.PHONY: bench fuzz fuzz-native sanitize lint models results results-real docs
.PHONY: browser doctest stock sdist wheel check-dist
.DELETE_ON_ERROR:

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## */  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

setup: $(VENV)/.test ## create .venv with the package (editable) and its test extras

demo: $(VENV)/.package ## answer questions over a long document with the full cache and with a compressed one
	$(BIN)/compresskv demo

test: $(VENV)/.extras stock ## run all tests
	$(BIN)/python -m pytest

test-real: setup ## tests with a real language model, which is fetched once (491 MB)
	$(BIN)/compresskv pull qwen2.5-coder-0.5b-instruct
	$(BIN)/python -m pytest -m real

test-arm: setup ## cross-build for 64-bit ARM, run the self-test in an emulator (needs qemu-user, g++-aarch64-linux-gnu)
	cmake -S . -B build/aarch64 --toolchain cmake/aarch64-linux-gnu.cmake -DCMAKE_BUILD_TYPE=Release > build/aarch64.log
	cmake --build build/aarch64 --target ckv-selftest --parallel 2 >> build/aarch64.log
	CKV_SELFTEST="qemu-aarch64 -L /usr/aarch64-linux-gnu build/aarch64/bin/ckv-selftest" \
	$(BIN)/python -m pytest tests/test_selftest.py

# the compiler's own libraries are not on Windows' path
test-windows: setup ## cross-build for 64-bit Windows, run the self-test in Wine (needs wine, g++-mingw-w64-x86-64-posix)
	cmake -S . -B build/windows --toolchain cmake/x86_64-windows.cmake -DCMAKE_BUILD_TYPE=Release > build/windows.log
	cmake --build build/windows --target ckv-selftest --parallel 2 >> build/windows.log
	cp $(foreach dll,libstdc++-6 libgcc_s_seh-1 libwinpthread-1,$$(x86_64-w64-mingw32-g++-posix -print-file-name=$(dll).dll)) build/windows/bin
	CKV_SELFTEST="wine build/windows/bin/ckv-selftest.exe" WINEPREFIX=$(CURDIR)/build/windows/wine WINEDEBUG=-all \
	$(BIN)/python -m pytest tests/test_selftest.py

build-vulkan: $(VENV)/.tools ## compile for Vulkan in build/vulkan, with Mesa's software driver: Debian and Ubuntu, as root; JOBS=2
	$(BIN)/python tools/vulkan.py build $(if $(JOBS),--jobs $(JOBS))

test-vulkan: $(VENV)/.extras build-vulkan ## the engine's tests on a Vulkan device, in the worst case the software driver
	$(BIN)/python tools/vulkan.py run $(BIN)/python -m pytest -k Vulkan

build-cuda: $(VENV)/.tools ## compile for CUDA in build/cuda: CUDA_ARCH=90, JOBS=2; needs nvcc, not a GPU
	$(BIN)/python tools/cuda.py build $(if $(CUDA_ARCH),--arch "$(CUDA_ARCH)") $(if $(JOBS),--jobs $(JOBS))

test-cuda: $(VENV)/.extras build-cuda ## all tests with the CUDA build, on a machine with an NVIDIA GPU
	$(BIN)/python tools/cuda.py run $(BIN)/python -m pytest

# a random model of 1.5 billion parameters, or MODEL=model.gguf. At 128k its four caches take 10 GB, computed from its shape
bench-cuda: $(VENV)/.package build-cuda ## decode at 32k and 128k on the GPU, against llama.cpp's f16, q8_0 and q4_0 caches
	$(BIN)/python tools/cuda.py run $(BIN)/compresskv bench $(or $(MODEL),--shape qwen2.5-1.5b) --gpu-layers -1 --prompt-tokens 32768,131072 \
	  --budget 512,1024,2048 --against q8_0,q4_0 --json build/cuda/bench.json

# every tests/fuzz/fuzz_*.py; SECONDS=600 for longer, SEED=2 for other inputs
fuzz: $(VENV)/.extras ## each fuzzer for a minute: files from strangers, requests, the native parsers
	status=0; for fuzzer in tests/fuzz/fuzz_*.py; do \
	  $(BIN)/python $$fuzzer --seconds $(or $(SECONDS),60) --seed $(or $(SEED),0) || status=1; done; exit $$status

# BUNDLE_PYTHONS=3.10,3.12 names the versions of Python that may be there
cuda-bundle: $(VENV)/.test build-cuda ## one file for a machine with an NVIDIA GPU and no network: tests and figures in 15 minutes
	$(BIN)/python tools/bundle.py cuda $(if $(CUDA_ARCH),--arch "$(CUDA_ARCH)") $(if $(BUNDLE_PYTHONS),--pythons "$(BUNDLE_PYTHONS)")

rehearse-bundle: $(VENV)/.test stock ## the same with the CPU's build, unpacked and run here without network
	$(BIN)/python tools/bundle.py cpu
	rm -rf build/rehearsal && mkdir -p build/rehearsal
	cd build/rehearsal && env -i PATH=/usr/bin:/bin \
	  unshare --map-root-user --net $(abspath $(BIN))/python $(CURDIR)/dist/compresskv-cpu-$$(uname -m).pyz

bench: $(VENV)/.package ## measure stock and compressed side by side
	$(BIN)/compresskv bench

# ASan in all, UBSan in our own C++. LeakSanitizer for the native programs only: to Python's memory it has much to say
SANITIZE := build/sanitize

$(SANITIZE)/.done: $(VENV)/.test $(wildcard tests/native/*.cpp tests/native/*/*)
	CC=clang CXX=clang++ cmake -S . -B $(SANITIZE) -DCKV_SANITIZE=ON -DCMAKE_BUILD_TYPE=RelWithDebInfo > $(SANITIZE).log
	cmake --build $(SANITIZE) --parallel 2 --target llama ckv-core-tests ckv-selftest ckv-fuzz-core ckv-fuzz-state >> $(SANITIZE).log
	@touch $@

sanitize: $(SANITIZE)/.done ## engine and native tests under AddressSanitizer and UBSan (needs clang and make doctest)
	$(SANITIZE)/bin/ckv-core-tests
	CKV_SELFTEST=$(SANITIZE)/bin/ckv-selftest $(BIN)/python -m pytest -q tests/test_selftest.py
	LD_PRELOAD=$$(clang -print-file-name=libclang_rt.asan-$$(uname -m).so) ASAN_OPTIONS=detect_leaks=0 \
	COMPRESSKV_LIB_PATH=$(CURDIR)/$(SANITIZE)/bin $(BIN)/python -m pytest -q \
	  tests/test_faults.py tests/test_window.py tests/test_stop.py tests/test_kv_write.py tests/test_scores.py

fuzz-native: $(SANITIZE)/.done ## libFuzzer on the layouts, the selection and saved states; SECONDS=60 each
	mkdir -p build/fuzz/core build/fuzz/state
	$(SANITIZE)/bin/ckv-fuzz-core -max_total_time=$(or $(SECONDS),60) build/fuzz/core
	$(BIN)/python -c 'from compresskv_edge.model.random_gguf import *; write_random_gguf("build/fuzz/model.gguf", TINY_SHAPES["llama"])'
	CKV_FUZZ_MODEL=build/fuzz/model.gguf \
	$(SANITIZE)/bin/ckv-fuzz-state -max_total_time=$(or $(SECONDS),60) -max_len=64 build/fuzz/state

lint: $(VENV)/.dev ## ruff, mypy, and which room may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# one thread each; glibc keeps freed memory, whose pages would be zeroed again for every step
TRAIN := OMP_WAIT_POLICY=PASSIVE MALLOC_TOP_PAD_=268435456 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184 \
         $(BIN)/python tools/models/build.py --threads 1

models: setup ## train the demo and the judge model from nothing (hours; build/models; needs npm and apt for prose)
	$(PIP) install torch==2.13.0 tokenizers
	$(TRAIN) demo build/models/demo > build/demo.log 2>&1 & demo=$$!; \
	$(TRAIN) judge build/models/judge && wait $$demo
	REBUILT_MODELS=build/models $(BIN)/python -m pytest tests/test_models.py -k "needles or tasks"

results: $(VENV)/.extras ## measure all policies of docs/results.md (over an hour on two cores; stopped, it goes on)
	$(BIN)/python tools/measure_policies.py demo & demo=$$!; \
	$(BIN)/python tools/measure_policies.py judge && wait $$demo
	$(BIN)/python -m compresskv_edge.evaluate.results docs/results docs/results.md

# REAL_DATA: novels as .txt, and altqa, qasper, nq and qmsum as .jsonl.gz in its folder real/; ONLY=needles-2048, LIMIT=20
results-real: $(VENV)/.extras ## measure policies on real language models (a day on one core; stopped, it goes on): REAL_DATA=folder
	@test -n "$(REAL_DATA)" || { echo 'make results-real needs REAL_DATA=folder: tools/measure_real.py says what is in it'; exit 1; }
	for model in qwen2.5-coder-0.5b-instruct smollm2-135m-instruct gemma-3-270m; do $(BIN)/compresskv pull $$model || exit 1; done
	$(BIN)/python tools/measure_real.py $(REAL_DATA) $(if $(ONLY),--only $(ONLY)) $(if $(LIMIT),--limit $(LIMIT))
	$(BIN)/python -m compresskv_edge.evaluate.results docs/results docs/results.md

docs: $(VENV)/.extras ## the documentation in build/site; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet --site-dir build/site

browser: ## Chromium for the chat page's tests, if it is missing: Debian and Ubuntu, as root
	@command -v chromedriver > /dev/null && command -v chromium > /dev/null || { \
	  apt-get update --quiet=2 && \
	  DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --no-install-recommends chromium chromium-driver; }

DOCTEST := /usr/include/doctest/doctest.h

doctest: ## the framework of the native unit tests, if it is missing: Debian and Ubuntu, as root
	@test -e $(DOCTEST) || { apt-get update --quiet=2 && \
	  DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --no-install-recommends doctest-dev; }

stock: build/stock/.done ## for the tests: an unpatched libllama in build/stock/lib, and the self-test without Python

sdist: $(VENV)/.tools ## dist/*.tar.gz, which builds without the package index
	$(BIN)/python -c 'from scikit_build_core.build import build_sdist; build_sdist("dist")'

wheel: $(VENV)/.tools ## dist/*.whl for this machine; CMAKE_ARGS="-DGGML_NATIVE=off" for others
	$(PIP) wheel --no-build-isolation --no-deps --wheel-dir dist .

check-dist: setup ## build both and try them in fresh environments (minutes)
	$(BIN)/python tools/check_dist.py

clean: ## remove all that make created
	rm -rf $(VENV) build dist vendor/llama.cpp

$(VENV)/.tools:
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade "pip>=21.3" "scikit-build-core>=1.1"
	@# cmake and ninja, if the backend says that they are missing
	$(BIN)/python -c 'from scikit_build_core.build import *; print(*get_requires_for_build_wheel(), sep="\n")' > $@
	$(PIP) install --requirement $@

# The binding without libraries of its own: ours take their place. From the checked archive and past pip's cache, which
# would hand this library-less wheel to every other project.
$(VENV)/.binding: $(VENV)/.tools $(UPSTREAM)
	sdist=$$($(BIN)/python vendor/fetch.py --sdist) && \
	CMAKE_ARGS="-DLLAMA_BUILD=OFF -DLLAVA_BUILD=OFF" \
	$(PIP) install --no-build-isolation --no-cache-dir --no-deps --force-reinstall "$$sdist"
	@touch $@

# an editable install knows modules by name: it is renewed when files come, go or move
$(VENV)/.modules: $(VENV)/.tools FORCE
	@find compresskv_edge -name '*.py' | sort | cmp -s - $@ || find compresskv_edge -name '*.py' | sort > $@

$(VENV)/.package: $(VENV)/.binding $(VENV)/.modules $(SOURCES)
	$(PIP) install --no-build-isolation --editable .
	@touch $@

# what tests and documentation need: demo does without. The library is built by now, these only add packages
$(VENV)/.test: $(VENV)/.package
	$(PIP) install --no-build-isolation --editable '.[test]'
	@touch $@

$(VENV)/.extras: $(VENV)/.package
	$(PIP) install --no-build-isolation --editable '.[test,integrations,docs]'
	@touch $@

$(VENV)/.dev: $(VENV)/.package
	$(PIP) install --no-build-isolation --editable '.[test,dev]'
	@touch $@

# the same build tree, so ggml is compiled once and with the same flags; doctest may come later
build/stock/.done: $(VENV)/.package cmake/stock.cmake $(wildcard tests/native/*.cpp tests/native/core/*.cpp $(DOCTEST))
	cmake -S . -B build/cmake -DCKV_STOCK=ON -DCKV_WERROR=ON > build/stock.log || { cat build/stock.log; exit 1; }
	cmake --build build/cmake --target stock ckv-selftest $(if $(wildcard $(DOCTEST)),ckv-core-tests)
	@touch $@
