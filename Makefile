# make demo    a style from nothing, on a laptop: pictures, training, evaluation, a style bundle (STEPS=60 makes it short)
# make test    the tests                          make lint      ruff and mypy
# make resolve shows that the packages resolve for Python 3.11, 3.12 and 3.13, without installing anything
# make scale   the tests with tens of thousands of pictures (STYLEKIT_SCALE=1000 makes it short)
# make modelscope  the tests that run ModelScope's own code, with TensorFlow, which it installs first
# make browser the tests of the pages, in a headless Chromium from npm (CHROMIUM=/usr/bin/chromium takes another)
# make lock    writes constraints.txt anew from what is installed
#
# Each works alone on a fresh machine with Python 3.11, 3.12 or 3.13; the first makes .venv and installs into it.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.PHONY: demo test lint resolve scale modelscope browser lock

VERSIONS := 3.11 3.12 3.13
PYTHON ?= $(shell for python in python3 $(VERSIONS:%=python%); do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
INSTALLED := .venv/installed
UPSTREAM := .venv/modelscope
comma := ,
NODE := $(if $(shell node -e 'process.exit(+(parseInt(process.versions.node) < 18))' 2>/dev/null && command -v npm),,$(comma)node)
DEMO_DIR ?= .
CHROMIUM ?= $(CURDIR)/.venv/chromium/chrome

demo: $(INSTALLED)
	mkdir -p $(DEMO_DIR)
	cd $(DEMO_DIR) && $(CURDIR)/$(BIN)/stylekit run $(CURDIR)/recipes/demo.yaml $(if $(STEPS),--set train.max_steps=$(STEPS))

test: $(INSTALLED)
	$(BIN)/python -m pytest -n auto --dist loadfile

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed; install one, or name it: make PYTHON=/path/to/python" >&2; exit 1; }
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,cpu,faces,gen,tensorboard$(NODE)]'
	touch $@

scale: $(INSTALLED)
	$(BIN)/python -m pytest -m scale -s

modelscope: $(UPSTREAM)
	STYLEKIT_REQUIRE_MODELSCOPE=1 $(BIN)/python -m pytest -m modelscope

$(UPSTREAM): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[modelscope]'
	touch $@

browser: $(CHROMIUM)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[browser]'
	CHROMIUM=$(CHROMIUM) $(BIN)/python -m pytest -m browser

# The package unpacks into TMPDIR, and what Amazon's machines lack (libnss3 and its like) only where it takes itself to be on one.
$(CURDIR)/.venv/chromium/chrome: $(INSTALLED)
	mkdir -p $(@D)
	cd $(@D) && export PATH="$$PATH:$(CURDIR)/$(BIN)" AWS_EXECUTION_ENV=AWS_Lambda_nodejs22.x TMPDIR=$(@D) && \
		npm install --silent --no-fund --no-audit --prefix . @sparticuz/chromium@147.0.0 && \
		node -e 'import("@sparticuz/chromium").then(it => it.default.executablePath())'
	printf '#!/bin/sh\nLD_LIBRARY_PATH=%s/al2023/lib exec %s/chromium "$$@"\n' $(@D) $(@D) > $@
	chmod +x $@

resolve: $(INSTALLED)
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet uv
	@for version in $(VERSIONS); do \
		packages=$$($(BIN)/uv pip compile pyproject.toml --all-extras --constraint constraints.txt --python-version $$version \
			--only-binary :all: --no-header --no-annotate --quiet) || exit 1; \
		echo "Python $$version: $$(wc -l <<< "$$packages") packages resolve"; \
	done

lock: $(UPSTREAM)
	{ echo "# The lock: every package of a tested environment, torch first. Written by: make lock"; \
	  $(BIN)/python -m pip freeze --exclude-editable --exclude uv | sed -E '/^#/d; s/\+cpu$$//' | sort --key 1,1 --ignore-case \
	  | awk '/^torch==/ { print; next } { rest = rest $$0 "\n" } END { printf "%s", rest }'; } > constraints.new
	mv constraints.new constraints.txt
	touch $(INSTALLED) $(UPSTREAM)
