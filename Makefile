# make run · test · sync · bench · app · style; each makes .venv by itself where there is none. Windows, or no make: see the README.
PYTHON ?= python3
DATA ?= sample
ARGS ?=
VENV := .venv/bin

help:
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*##/  /'

.venv/made: requirements.txt requirements-dev.txt
	test -x $(VENV)/python || $(PYTHON) -m venv .venv
	$(VENV)/python -m pip install --quiet -r requirements-dev.txt
	touch $@

run: .venv/made  ## notebooks 01-07 in order on DATA (sample, isic2018, a folder), as HTML; settings in ARGS
	$(VENV)/python tools/notebooks.py run --data $(DATA) $(ARGS)

test: style .venv/made  ## style, the notebook pairs, unit tests, then every notebook on the fixture
	$(VENV)/python tools/notebooks.py check
	$(VENV)/python -m pytest -n 2 tests
	folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	DERMAI_DATA=sample DERMAI_CACHE_DIR=$$folder/cache DERMAI_WORK_DIR=$$folder/work \
	$(VENV)/python -m pytest --nbval --nbval-current-env notebooks

sync: .venv/made  ## make each notebook and its .py equal, with outputs from the sample
	$(VENV)/python tools/notebooks.py sync

bench: .venv/made  ## speed, as ratios measured side by side; IMAGES=folder of real JPEGs
	$(VENV)/python -m pip install --quiet -r requirements-bench.txt
	$(VENV)/python tools/bench.py $(if $(IMAGES),--images $(IMAGES))

faults: .venv/made  ## the pipeline on the sample, killed at 100 random moments; ARGS="--kills 10" for fewer
	$(VENV)/python tools/faults.py $(ARGS)

app: .venv/made  ## a page on this machine where a photo can be dropped; DATA and ARGS say which run
	$(VENV)/python -m pip install --quiet -r requirements-app.txt
	$(VENV)/python -m dermai_utils app --data $(DATA) $(ARGS)

style: .venv/made  ## ruff
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .

.PHONY: help run test sync bench app style
