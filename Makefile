# make demo: the whole workflow on a small wiki     make test: all checks     make test-slow: what takes longer
PYTHON ?= python3
BIN := .venv/bin
# PyTorch's CPU index serves a smaller build than the default: make demo PIP_ARGS="--extra-index-url …"
PIP_ARGS ?=
DEMO := $(BIN)/snakemake --directory demo --configfile demo.yaml --cores 2 --rerun-incomplete --show-failed-logs
DEMO_DATE ?= 20261001

# a virtual environment does not work at another place: made anew when the clone has moved
ifneq ($(shell cat .venv/.stamp 2>/dev/null),$(CURDIR))
.PHONY: .venv/.stamp
endif

.PHONY: environment demo test test-slow lint format

environment: .venv/.stamp

.venv/.stamp: envs/requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; set PYTHON=")'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_ARGS) -r envs/requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@echo $(CURDIR) > $@

demo: environment
	@$(BIN)/python tests/wiki/pack.py demo/dumps
	$(DEMO) --config dump_date=$(DEMO_DATE)
	@$(MAKE) --no-print-directory --silent demo/summary-$(DEMO_DATE).txt

# shown once for each run that made something
demo/summary-$(DEMO_DATE).txt: demo/results/export/gpt2-tiny-$(DEMO_DATE) demo/results/export/roberta-tiny-$(DEMO_DATE)
	{ set -e; echo; echo "Hugging Face folders:"; ls -d $(^:%=./%); echo; \
	$(BIN)/jalm compare $$(ls demo/results/evaluate/*/*.json | grep -v -- -valid.json); \
	echo "(on one test set, bits/char compare any two models; PPL those of one kind and one tokenizer)"; echo; \
	echo "日本の …"; $(BIN)/jalm generate $< 日本の; echo; \
	echo "江戸[MASK]代は、"; $(BIN)/jalm generate $(word 2,$^) "江戸[MASK]代は、"; } > $@.partial
	cat $@.partial
	mv $@.partial $@

lint: environment
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

test: lint
	$(BIN)/pytest -m "not slow" --ignore tests/test_cluster.py -n 2 --dist loadfile
	$(BIN)/pytest -m "not slow" tests/test_cluster.py

test-slow: environment
	$(BIN)/pytest -m slow

format: environment
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow
