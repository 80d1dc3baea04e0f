# Each verb does its own set-up, on a machine that has Python >= 3.11, make and git. Paths are relative to this folder,
# so that the folder may lie anywhere, under any name.

PYTHON ?= python3
SAMPLE ?= 12
WORKERS ?= 3

RUN := .venv/bin/python
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test check bench messages clean
.DELETE_ON_ERROR:

help:
	@echo 'make demo      a real PostgreSQL, backed up, destroyed and recovered before your eyes'
	@echo 'make test      the tests: all quick ones, then SAMPLE=$(SAMPLE) of the slow ones'
	@echo 'make check     formatting, lint, types, the direction of imports'
	@echo 'make bench     the measurements of bench/'
	@echo 'make messages  gathers the texts of src/ into the catalogues, to be translated'
	@echo 'make clean     removes what these made'
	@echo
	@echo 'PYTHON=$(PYTHON) makes the virtual environment .venv, at the first of them.'

demo: $(INSTALLED)
	.venv/bin/holdfast demo

test: $(INSTALLED)
	$(RUN) -m pytest -m 'not slow' -n $(WORKERS) --dist loadfile
	$(RUN) -m pytest -m slow --sample $(SAMPLE)

check: $(INSTALLED)
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) -m mypy
	.venv/bin/lint-imports

bench: $(INSTALLED)
	$(RUN) -m bench

messages: $(INSTALLED)
	@mkdir -p build
	.venv/bin/pybabel --quiet extract --no-location --sort-by-file -o build/holdfast.pot src/holdfast
	.venv/bin/pybabel --quiet update --no-fuzzy-matching --ignore-obsolete --ignore-pot-creation-date --width 120 \
	  --domain holdfast --input-file build/holdfast.pot --output-dir src/holdfast/locale --locale zh_CN

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(INSTALLED): pyproject.toml build_catalogues.py $(wildcard src/holdfast/locale/*/LC_MESSAGES/holdfast.po)
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Holdfast needs Python 3.11 or later; name one: make PYTHON=python3.12 ...")'
	"$(PYTHON)" -m venv .venv || { echo 'No venv here: on Debian and Ubuntu, apt-get install python3-venv' >&2; exit 1; }
	$(RUN) -m pip install --quiet --disable-pip-version-check -e '.[test,check]'
	@touch $(INSTALLED)
