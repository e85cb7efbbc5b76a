# make demo: the main job, from nothing. make test: all checks. make test-all: the long ones too.
# make help: the rest.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
APT_PACKAGES := $(shell cat apt-packages.txt)
C_SOURCES := $(wildcard deployers/*.[ch] deployers/*/*.[ch] deployers/*/*/*.[ch] external/pulp-trainlib/*/*.[ch] external/pulp-trainlib/*/*/*.[ch] \
	tests/*/*.h tests/library/*.c tests/library/fuzz/*.c benchmarks/*.c)

help:
	@echo 'make demo      set up, then train, adapt, deploy and verify on handwritten digits (under 6 minutes)'
	@echo 'make test      set up, then lint, type check and run the tests'
	@echo 'make test-all  the same with all tests, also those that take minutes each'
	@echo 'make setup     make the virtual environment $(VENV)'
	@echo 'make system    install the system packages that QEMU and PULP need (apt, as root or with sudo)'
	@echo 'make bench-device  measure steps and kernels in the simulator; rewrite benchmarks/device.* and kernels.*'
	@echo 'make format    format Python and C'

demo: setup
	$(BIN)/tinyclf demo

test: system-if-root setup-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(C_SOURCES)
	$(BIN)/pytest -n 2

test-all: export TINYCLF_LONG = 1
test-all: test

bench-device: setup-dev
	$(BIN)/python -m benchmarks.device
	$(BIN)/python -m benchmarks.kernels

format: setup-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $(C_SOURCES)

setup: $(VENV)/.runtime

setup-dev: $(VENV)/.dev

# The version of a CPU build ends in +cpu. Where pip finds none, PyTorch's own index of CPU builds has it; plain PyPI
# would give a CUDA build of several GB.
$(VENV)/.runtime: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo 'tinyclf needs Python 3.10 or newer; set PYTHON=...'; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || $(MAKE) --no-print-directory system APT_PACKAGES=python3-venv
	@echo '--- making $(VENV)'
	@$(PYTHON) -m venv $(VENV)
	@version=$$(sed -n 's/^torch==//p' constraints.txt); \
		echo "--- installing torch $$version (CPU build, about 190 MB)"; \
		$(PIP) "torch==$$version+cpu" 2>/dev/null || $(PIP) --index-url $(TORCH_INDEX) "torch==$$version" || \
		{ echo "torch $$version: no CPU build found; set TORCH_INDEX to an index that has one"; exit 1; }
	@echo '--- installing tinyclf and what it needs'
	@$(PIP) -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	@echo '--- installing the tools for development'
	@$(PIP) -c constraints.txt -e '.[dev]'
	@touch $@

system:
	@for p in $(APT_PACKAGES); do dpkg -s $$p >/dev/null 2>&1 || missing="$$missing $$p"; done; \
	if [ -z "$$missing" ]; then echo '--- system packages: all there'; \
	elif [ "$$(id -u)" = 0 ]; then apt-get update -q && apt-get install -qy --no-install-recommends $$missing; \
	elif command -v sudo >/dev/null; then sudo apt-get update -q && sudo apt-get install -qy --no-install-recommends $$missing; \
	else echo "install as root: apt-get install$$missing"; exit 1; fi

# As root, install them; otherwise say which are missing and go on: tests that need them are skipped with the reason.
system-if-root:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then $(MAKE) --no-print-directory system; \
	else for p in $(APT_PACKAGES); do dpkg -s $$p >/dev/null 2>&1 || missing="$$missing $$p"; done; \
	[ -z "$$missing" ] || echo "--- not installed, tests that need them are skipped ('make system' installs):$$missing"; fi

.PHONY: help demo test test-all bench-device format setup setup-dev system system-if-root
