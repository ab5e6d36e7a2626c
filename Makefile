# localllm: the development commands. `make` alone lists them.

PYTHON ?= python3
VENV    = .venv
BIN     = $(VENV)/bin
BUILD   = build
JOBS   ?= $(shell nproc 2>/dev/null || echo 2)

SOURCES   = CMakeLists.txt pyproject.toml $(shell find native -name '*.[ch]')
INTERNALS = $(BUILD)/internals/liblocalllm_internals.so
SANITIZED = engine reuse same_bits kernels quant exact sampler tokenizer gguf gguf_broken gguf_split
ON_SANITIZED = LD_PRELOAD="$$(cc -print-file-name=libasan.so) $$(cc -print-file-name=libubsan.so)" \
    ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 \
    LOCALLLM_INTERNALS=$(BUILD)/asan/liblocalllm_internals.so \
    PYTHONPATH=$(BUILD)/asan/site:$$(echo $(VENV)/lib/python3.*/site-packages) $(BIN)/python -SP
ON_ARM    = qemu-aarch64 -L /usr/aarch64-linux-gnu
C_FILES   = $(shell find native tests bench -name '*.[ch]' -not -name 'unicode_tables.h')

.PHONY: help run test lint format asan neon bench clean
.DEFAULT_GOAL := help

help: ## list these targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

run: $(VENV)/installed ## build, pull a small model and answer a question
	$(BIN)/localllm run smollm2:135m --temp 0 'What is the capital of France?'

test: $(VENV)/installed $(INTERNALS) ## build and pass every test
	$(BIN)/python -m pytest -m clock
	$(BIN)/python -m pytest -m 'not clock' -n $(JOBS) --dist loadfile

lint: $(VENV)/installed ## formatting, style and types, warnings as errors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@$(BIN)/clang-format --dry-run --Werror $(C_FILES)
	$(BIN)/cmake -S . -B $(BUILD)/lint -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python \
	    -DLOCALLLM_INTERNALS=ON -DLOCALLLM_WERROR=ON >/dev/null
	$(BIN)/cmake --build $(BUILD)/lint -j $(JOBS) -- --no-print-directory

format: $(VENV)/installed ## rewrite all sources in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(C_FILES)

asan: $(VENV)/installed ## the reader fuzzed and the engine tested under the sanitizers
	$(BIN)/cmake -S . -B $(BUILD)/asan -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python \
	    -DLOCALLLM_INTERNALS=ON -DLOCALLLM_SANITIZE=ON >/dev/null
	$(BIN)/cmake --build $(BUILD)/asan -j $(JOBS) -- --no-print-directory
	$(BIN)/cmake --install $(BUILD)/asan --prefix $(BUILD)/asan/site >/dev/null
	cp -r localllm $(BUILD)/asan/site/
	$(BIN)/python tests/gguf_files.py $(BUILD)/asan/seed.gguf
	$(BUILD)/asan/gguf_fuzz $(BUILD)/asan/seed.gguf 100000 1
	$(ON_SANITIZED) tests/fuzz/model_fuzz.py
	$(ON_SANITIZED) -m pytest $(SANITIZED:%=tests/test_%.py) \
	    -k 'not real and not memory and not interrupt'

neon: $(VENV)/installed ## cross-compile for ARM and compare its kernels under an emulator
	$(BIN)/cmake -S . -B $(BUILD)/neon -DCMAKE_TOOLCHAIN_FILE=cmake/aarch64-linux-gnu.cmake \
	    -DLOCALLLM_MODULE=OFF -DLOCALLLM_INTERNALS=ON -DLOCALLLM_WERROR=ON >/dev/null
	$(BIN)/cmake --build $(BUILD)/neon -j $(JOBS) -- --no-print-directory
	$(ON_ARM) -cpu max $(BUILD)/neon/kernels_equal neon_i8mm neon_dotprod neon
	$(ON_ARM) -cpu cortex-a53 $(BUILD)/neon/kernels_equal
	for pair in cortex-a53:neon cortex-a76:neon_dotprod max:neon_i8mm; do \
	    test "$$($(ON_ARM) -cpu $${pair%:*} $(BUILD)/neon/kernels_equal --best)" = $${pair#*:} \
	    || exit 1; done

bench: $(VENV)/installed ## ours and llama-cpp-python, interleaved (BENCH=--quick …); see bench/README.md
	$(BIN)/python bench/run.py $(BENCH)

clean: ## remove everything that was built
	rm -rf $(VENV) $(BUILD)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# An editable install holds the list of modules, so it is made anew when one comes or moves.
$(BUILD)/modules: FORCE
	@mkdir -p $(BUILD) && find localllm -name '*.py' | sort >$@.now
	@cmp -s $@.now $@ || cp $@.now $@; rm $@.now

FORCE:

$(VENV)/installed: $(VENV)/bin/python $(SOURCES) $(BUILD)/modules
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

$(INTERNALS): $(SOURCES) | $(VENV)/installed
	$(BIN)/cmake -S . -B $(BUILD)/internals -DLOCALLLM_INTERNALS=ON -DLOCALLLM_MODULE=OFF >/dev/null
	$(BIN)/cmake --build $(BUILD)/internals -j $(JOBS)
