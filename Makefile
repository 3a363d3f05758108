# facecp_nb. A fresh clone needs Python 3.11 or newer and make; `make` alone lists what can be done.
#
#   make run  ARGS="04 --profile smoke"      arguments go to `facecp run`
#   make test ARGS="tests/test_tree.py -x"   arguments go to pytest
#   make test ARGS='-m "not slow"'           without notebooks, browsers and training
#   make run  PYTHON=/path/to/python3.12     another Python for the first installation

VENV ?= .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.installed
EXTRAS := render,cluster,look,brain,dev
WORKERS ?= 2
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help install run test lab site readme outputs constraints clean distclean

help:
	@echo "make run          install if needed, then the main experiment on the shipped faces"
	@echo "make test         install if needed, then every test: notebooks and pytest"
	@echo "make lab          the course in JupyterLab"
	@echo "make site         the course as a web site, in _docs/"
	@echo "make readme       write README.md from nbs/index.ipynb"
	@echo "make outputs      run notebooks and store their outputs (ARGS=\"nbs/library/foveation\")"
	@echo "make constraints  resolve every dependency anew into constraints.txt"
	@echo "make clean        remove the site and the caches; make distclean removes $(VENV) too. Both keep runs/"

install: $(READY)

# A folder that lacks .installed and holds .installing was left half-made, so it is made again.
# When only pyproject.toml or constraints.txt changed, pip brings the existing one up to date.
$(READY): pyproject.toml constraints.txt
	@if [ -e $(VENV)/.installing ] || ! $(PY) -m pip --version >/dev/null 2>&1; then \
	  found=; \
	  for p in $(PYTHON) python3.11 python3 python3.12 python3.13; do \
	    if "$$p" -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then found=$$p; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "facecp_nb needs Python 3.11 or newer with venv (on Debian and Ubuntu: apt install python3-venv)." >&2; \
	    echo "The python3 here: $$(python3 --version 2>&1). Name another one with: make PYTHON=/path/to/python3.11 ..." >&2; \
	    exit 1; \
	  fi; \
	  echo "Making $(VENV) with $$($$found --version). Installing takes about 4 minutes and 7.5 GB, once."; \
	  rm -rf $(VENV) && mkdir -p $(VENV) && touch $(VENV)/.installing && "$$found" -m venv $(VENV); \
	fi
	$(PY) -m pip install --disable-pip-version-check --progress-bar off --quiet -c constraints.txt -e '.[$(EXTRAS)]'
	@rm -f $(VENV)/.installing && touch $@

run: $(READY)
	$(VENV)/bin/facecp run $(ARGS)

# two workers; `make test WORKERS=0` runs everything in one process, as a debugger wants it
test: $(READY)
	OMP_WAIT_POLICY=PASSIVE $(PY) -m pytest -n $(WORKERS) --dist loadgroup $(ARGS)

# tools/jupyter: a save is cleaned, no news are asked for. PASSIVE: waiting threads sleep, so that two kernels can share two cores
lab: $(READY)
	OMP_WAIT_POLICY=PASSIVE JUPYTER_CONFIG_PATH="$(CURDIR)/tools/jupyter$${JUPYTER_CONFIG_PATH:+:$$JUPYTER_CONFIG_PATH}" \
	  $(VENV)/bin/jupyter lab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/nbs/index.ipynb $(ARGS)

site: $(READY)
	$(PY) tools/build_site.py
	@echo "To read it: $(PY) -m http.server 8000 --bind 127.0.0.1 -d _docs, then http://127.0.0.1:8000"

readme: $(READY)
	$(PY) tools/readme.py

outputs: $(READY)
	$(PY) tools/store_outputs.py $(ARGS)

# Resolves in a throw-away environment (nothing is installed there but pip) and writes what was chosen.
# Afterwards: make test, then commit constraints.txt.
constraints: $(READY)
	$(PY) tools/constraints.py '.[$(EXTRAS)]' constraints.txt

clean:
	rm -rf _docs _proc build *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
	find nbs -name .ipynb_checkpoints -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)
