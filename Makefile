# make demo   compares FastLSTM with keras.layers.LSTM on the default data: a table, and a plot in demo/
# make test   runs the test suite with every installed Keras backend: TensorFlow, or all three with EXTRAS=dev
# make test-fast   runs the quick tests in about a minute, with the build that is there; on JAX: KERAS_BACKEND=jax
# make docs   builds the documentation site into build/site
# All use one virtual environment, .venv, and need python3, a C++ compiler and make.

PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= test
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := $(shell find csrc -type f) $(shell find lstm_fast -name '*.py') CMakeLists.txt setup.py pyproject.toml

.PHONY: demo test test-fast docs lint clean

demo: $(VENV)/installed-$(EXTRAS)
	$(BIN)/lstm-fast compare --output demo

test: $(VENV)/installed-$(EXTRAS)
	$(BIN)/python tests/run.py $(TEST_OPTIONS)

# This installs nothing first, so that an edited Python file is tested at once.
test-fast:
	$(BIN)/python -m pytest -q -m fast $(TEST_OPTIONS)

docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "build/site/index.html is the first page. For the search: $(BIN)/python -m http.server --directory build/site"

lint: $(VENV)/installed-$(EXTRAS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest --mypy-config-file pyproject.toml lstm_fast._core $$(ls lstm_fast/_cuda.*.so 2> /dev/null | sed 's/.*/lstm_fast._cuda/;q')
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files '*.h' '*.cc' '*.inl' '*.cu')

clean:
	rm -rf $(VENV) build dist demo lstm_fast.egg-info lstm_fast/*.so lstm_fast/*.dylib lstm_fast/sources

# The package is installed in place, because some tests read the object files that its build leaves in build/.
$(VENV)/installed-%: $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV): this downloads packages and compiles, which takes some minutes."
	$(PIP) install --quiet --editable '.[$*]'
	touch $@
