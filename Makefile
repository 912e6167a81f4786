# Every target makes .venv and installs into it first; that step is instant once .venv/.installed is newer than pyproject.toml.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest

.PHONY: install check test test-slow test-gpu image-test bench serve docs clean

install: .venv/.installed

.venv/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Unmask needs Python 3.11 or newer; run: make PYTHON=/path/to/python3.11")'
	@echo 'Installing into .venv: a few minutes, once.'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile
	@$(MAKE) --no-print-directory docs

# build/site/index.html; broken links are errors.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# A file's tests stay in one process, and share what they have loaded.
test: install
	$(PYTEST) -n 2 --dist loadfile

test-slow: install
	@command -v espeak-ng >/dev/null && command -v flite >/dev/null || \
		{ echo "The slow tests synthesise speech: sudo apt-get install espeak-ng flite" >&2; exit 1; }
	$(PYTEST) -m slow --timeout=1800

# The benchmark writes benchmarks/results/kernels_<device>.json.
test-gpu: install
	$(PYTEST) -m gpu
	$(BIN)/python benchmarks/bench_kernels.py

# Takes BASE and WHEELS; see docs/deployment.md.
image-test:
	@docker/image_test.sh

bench: install
	$(BIN)/python benchmarks/bench_mini.py
	$(BIN)/python benchmarks/bench_engine.py
	$(BIN)/python benchmarks/bench_step.py

serve: install
	$(BIN)/unmask serve

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
