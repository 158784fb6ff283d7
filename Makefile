# make demo [VIDEO=path]   install into .venv if needed, then track the built-in clip (or your video) into out/
#   FRAMES=200 tracks the first 200 frames only; without it there is no limit
# make view RESULT=out/clip    install the viewer if needed, then look at a result in the browser
# make test                install into .venv if needed, then run the fast tests, JOBS=2 at a time
# make test-all: all of them;  make test-faults: killed runs and broken input, some ten minutes
# make lint                ruff and pyright;  make matrix: the tests with every Python and the oldest and newest JAX
# make doctor              what of the installation works, and what is missing
# PYTHON=python3.12 chooses the interpreter, VENV=path another environment.

VENV ?= .venv
JOBS ?= 2
BIN := $(VENV)/bin
export OPENBLAS_NUM_THREADS ?= 1

.PHONY: demo view doctor test test-all test-faults lint matrix configs bench-render bench-track bench-adjoint bench-scans clean

demo: $(VENV)/.installed
	$(BIN)/vht-demo $(if $(VIDEO),"--video=$(VIDEO)") $(if $(FRAMES),--max_frames=$(FRAMES))

view: $(VENV)/.installed-viewer
	$(BIN)/vht-view "$(or $(RESULT),out/demo)" $(if $(RESULT2),"$(RESULT2)")

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m "not slow" -n $(JOBS) --dist loadfile --no-loadscope-reorder

test-all: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

test-faults: $(VENV)/.installed-test
	$(BIN)/python -m pytest -m faults

doctor: $(VENV)/.installed
	$(BIN)/vht-doctor

# Mistakes, layout and types.
lint: $(VENV)/.installed-dev
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python

# Python 3.11 to 3.13 with the oldest and the newest JAX; takes hours on two cores.
matrix:
	.ci/matrix

# What is made from the settings' own descriptions: configs/default.ini, docs/settings.md.
configs: $(VENV)/.installed
	$(BIN)/python -m vht_jax.app.options.manual

bench-render: $(VENV)/.installed
	$(BIN)/python benchmarks/render.py

bench-adjoint: $(VENV)/.installed
	$(BIN)/python benchmarks/adjoint.py

bench-track: $(VENV)/.installed
	$(BIN)/python benchmarks/track.py

# The tracker on clips whose truth is known whole: DIR has heads of scans; without it our own are made.
bench-scans: $(VENV)/.installed
	$(if $(DIR),,$(BIN)/python benchmarks/truth_clips.py --out build/truth_clips)
	$(BIN)/python benchmarks/scans.py $(or $(DIR),build/truth_clips)

# The first interpreter that runs and is new enough (a name on the PATH may be a stub that does not run).
$(BIN)/python:
	@python="$(PYTHON)"; \
	if [ -z "$$python" ]; then \
	  for p in python3.12 python3.11 python3 python; do \
	    if $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then \
	      python=$$p; break; \
	    fi; \
	  done; \
	fi; \
	if [ -z "$$python" ]; then \
	  echo "make: no Python 3.11-3.13 found; install one or say PYTHON=/path/to/python" >&2; exit 1; \
	fi; \
	echo "using $$python ($$($$python -V 2>&1))"; \
	$$python -m venv $(VENV) || { \
	  echo "make: $$python cannot create environments; on Debian and Ubuntu: apt install python3-venv" >&2; \
	  rm -rf $(VENV); exit 1; }

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -e .
	@touch $@

$(VENV)/.installed-viewer: pyproject.toml | $(VENV)/.installed
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -e ".[viewer]"
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -e ".[test]"
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -e ".[test,dev]"
	@touch $@ $(VENV)/.installed $(VENV)/.installed-test

clean:
	rm -rf out build dist .pytest_cache .ruff_cache
