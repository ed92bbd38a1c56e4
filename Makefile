# `make` lists what there is; each target makes .venv where there is none. Windows, or no make: see the README.
PYTHON ?= python3
PYTHON313 ?= python3.13
DATA ?= sample
ARGS ?=
RUN ?=
REPO ?=
TAG ?=
VENV := .venv/bin

help:
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*##/  /'

.venv/made: requirements.txt requirements-dev.txt
	test -x $(VENV)/python || $(PYTHON) -m venv .venv
	$(VENV)/python -m pip install --quiet -r requirements-dev.txt
	touch $@

run: .venv/made  ## every notebook from 01 on, in order, on DATA (sample, isic2018, a folder), as HTML; settings in ARGS
	$(VENV)/python tools/notebooks.py run --data $(DATA) $(ARGS)

test: style .venv/made  ## before a commit: style, habits, notebook pairs, quick tests, four kills, every notebook on the sample
	$(VENV)/python tools/habits.py
	$(VENV)/python tools/notebooks.py check
	$(VENV)/python -m pytest -n 2 --dist loadfile -m "not slow" tests
	$(VENV)/python tools/faults.py --kills 4 & kills=$$!; \
	folder=$$(mktemp -d) && trap 'kill $$kills 2>/dev/null || true; rm -rf "$$folder"' EXIT && \
	TQDM_DISABLE=1 DERMAI_DATA=sample DERMAI_CACHE_DIR=$$folder/cache DERMAI_WORK_DIR=$$folder/work \
	$(VENV)/python -m pytest --nbval --nbval-current-env notebooks && wait $$kills

test-all: style .venv/made  ## weekly: the slow tests too, and 100 kills; no notebooks, those are in `make test`
	$(VENV)/python -m pytest -n 2 --dist loadfile tests
	$(VENV)/python tools/faults.py --kills 100

sync: .venv/made  ## make each notebook and its .py equal, with outputs from the sample
	$(VENV)/python tools/notebooks.py sync

publish: .venv/made  ## where Colab gets the package: REPO=owner/name TAG=v1, into setup cells, badges, pages, CITATION
	$(VENV)/python tools/notebooks.py publish "$(REPO)" "$(TAG)"

lab: .venv/made  ## JupyterLab on the notebooks
	$(VENV)/python -m pip install --quiet jupyterlab
	$(VENV)/jupyter lab notebooks

bench: .venv/made  ## speed, as ratios measured side by side; IMAGES=FOLDER of JPEGs, ARGS="--n 160 --parts memory"
	$(VENV)/python -m pip install --quiet -r requirements-bench.txt
	$(VENV)/python tools/bench.py $(if $(IMAGES),--images $(IMAGES)) $(ARGS)

gpu: .venv/made  ## what a GPU gives, as work/gpu/gpu.json; run it again until that is printed; ARGS=--tiny on a CPU
	$(VENV)/python tools/gpu.py $(ARGS)

faults: .venv/made  ## `run` on the sample, killed at 100 random moments; ARGS="--kills 10" for fewer
	$(VENV)/python tools/faults.py $(ARGS)

.PHONY: colab test-newest
.venv-colab/made: requirements-colab.txt
	$(PYTHON313) -m venv --clear .venv-colab
	.venv-colab/bin/python -m pip install --quiet -r requirements-colab.txt
	touch $@

colab: .venv-colab/made  ## every notebook alone, in the versions that Colab has; PYTHON313=its Python
	.venv-colab/bin/python tools/colab.py $(ARGS)

test-newest:  ## the same with the newest version of everything
	test -x .venv-newest/bin/python || $(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --upgrade pip
	sed 's/==.*//' requirements-colab.txt > .venv-newest/names.txt
	.venv-newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager -r .venv-newest/names.txt
	.venv-newest/bin/python tools/colab.py $(ARGS)

app: .venv/made  ## a page on this machine where a photo can be dropped; of a run of DATA (ARGS), or RUN=PACK
	$(VENV)/python -m pip install --quiet -r requirements-app.txt
	$(VENV)/python -m dermai_utils app $(if $(RUN),--run "$(RUN)",--data $(DATA)) $(ARGS)

sample: .venv/made  ## paint the sample's pictures anew: the same bytes
	$(VENV)/python tools/make_sample.py

pictures: .venv/made  ## the README's picture anew, from a run on the sample: assets/report.png, sample_metrics.json
	$(VENV)/python tools/pictures.py

style: .venv/made  ## ruff
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .

.PHONY: help run test test-all sync publish lab bench gpu faults app sample pictures style
