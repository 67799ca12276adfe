# `make demo` trains a classifier, `make test` runs every test, `make parity` those that compare with
# Keras, PyTorch and onnxruntime, which it installs (1 GB), `make fuzz` feeds bad input to all parts
# for an hour (FUZZ="--cases 200" takes two minutes), `make docs` builds the documentation. Each first
# makes its own environment in .venv; all it needs is Python 3.10 or newer, with pip.
# PYTHON=python3.12 picks another Python.

PYTHON ?= python3
VENV ?= .venv
# The products in small models are too small to share: a second thread would only wait for the first.
RUN = OPENBLAS_NUM_THREADS=1 $(VENV)/bin/python
DEMO ?=
FUZZ ?= --seconds 30

.PHONY: demo test parity fuzz lint docs clean

demo: $(VENV)/minirnn-demo
	$(RUN) examples/agnews_classifier.py $(DEMO)

test: $(VENV)/minirnn-test
	$(RUN) -m pytest

parity: $(VENV)/minirnn-parity
	$(RUN) -m pytest tests/interop

fuzz: $(VENV)/minirnn-fuzz
	$(RUN) scripts/fuzz.py $(FUZZ)

lint: $(VENV)/minirnn-dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

docs: $(VENV)/minirnn-docs
	$(RUN) -m sphinx -q -E -W --keep-going -b html docs docs/_build/html
	@echo "Now open docs/_build/html/index.html"

clean:
	rm -rf $(VENV) build dist docs/_build *.egg-info

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo \
	"minirnn needs Python 3.10 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12"; \
	exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/minirnn-demo: $(VENV)/bin/python setup.cfg
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/minirnn-test: $(VENV)/bin/python setup.cfg
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@ $(VENV)/minirnn-demo

$(VENV)/minirnn-parity: $(VENV)/bin/python setup.cfg
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[test,parity]'
	@touch $@ $(VENV)/minirnn-test $(VENV)/minirnn-demo

$(VENV)/minirnn-fuzz: $(VENV)/bin/python setup.cfg
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	@touch $@ $(VENV)/minirnn-test $(VENV)/minirnn-demo

$(VENV)/minirnn-dev: $(VENV)/bin/python setup.cfg
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/minirnn-test $(VENV)/minirnn-demo

$(VENV)/minirnn-docs: $(VENV)/bin/python setup.cfg
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@ $(VENV)/minirnn-demo
