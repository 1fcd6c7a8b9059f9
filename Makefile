# `make help` lists what there is. Needs Python 3.11 or newer, make and a package index.

PYTHON ?= python3
SERVE := .venv
DEV := .venv-dev
CODE := train export webapp tests bench
SEEDS ?= 2 1 0  # the last is what make export takes
MODELS ?= artifacts

.DEFAULT_GOAL := help
.PHONY: help run test e2e check bench contract check-images screenshots model train seeds study export \
	rollback lint format lock upgrade licences clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "%-12s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(SERVE)/ready  ## serve on http://127.0.0.1:8000 (PORT and the others: see .env.example)
	@exec $(SERVE)/bin/python -m webapp

test: $(DEV)/ready  ## run all tests
	$(DEV)/bin/python -m pytest $(ARGS)

e2e: $(DEV)/ready  ## run the whole flow in a browser alone
	$(DEV)/bin/python -m pytest tests/test_browser.py $(ARGS)

screenshots: $(DEV)/ready  ## take the README's pictures of the page anew, into docs/
	$(DEV)/bin/python -m tests.screenshots docs

model: train  ## train on MNIST and pen strokes, and export to artifacts/
	$(DEV)/bin/python -m export

train: $(DEV)/ready  ## train alone, into runs/ (ARGS="--epochs 1", see python -m train --help)
	$(DEV)/bin/python -m train $(ARGS)

seeds: $(DEV)/ready  ## train once with each of SEEDS, which tells how much of a figure is luck
	for seed in $(SEEDS); do $(DEV)/bin/python -m train --seed $$seed $(ARGS) || exit; done

study: $(DEV)/ready  ## tell what each part of the recipe is worth, from short runs on folds
	$(DEV)/bin/python -m train.study $(ARGS)

rollback:  ## put the previous model back into MODELS; a service takes it up by itself
	@test -f $(MODELS)/previous/digits.onnx || { echo "there is no previous model"; exit 1; }
	@cd $(MODELS) && for file in model.json digits.onnx; do \
		cp -p $$file previous/.now && mv previous/$$file $$file && mv previous/.now previous/$$file \
		|| exit 1; done
	@echo "$(MODELS) has the previous model again; once more brings this one back"

check: lint  ## do all that has to hold before a change lands
	@! git grep -nE 'TODO|FIXME' -- ':!Makefile'
	$(DEV)/bin/coverage erase
	$(DEV)/bin/coverage run -m pytest $(ARGS)
	$(DEV)/bin/coverage combine --quiet
	$(DEV)/bin/coverage report --show-missing --skip-covered

bench: $(DEV)/ready  ## time the service beside the work itself (ARGS="postgres" and others: see bench/speed.py)
	@$(DEV)/bin/python -m bench.speed $(ARGS)

contract: $(DEV)/ready  ## hold the code to webapp/openapi.json, in 2,000 cases
	$(DEV)/bin/python -m pytest tests/test_service.py -k openapi --max-examples 110

check-images: $(DEV)/ready  ## build the images and try the compose file, where there is Docker
	$(DEV)/bin/python -m bench.containers $(ARGS)

export: $(DEV)/ready  ## export the newest run to artifacts/
	$(DEV)/bin/python -m export

lint: $(DEV)/ready  ## check style, types and imports
	$(DEV)/bin/ruff check $(CODE)
	$(DEV)/bin/ruff format --check $(CODE)
	$(DEV)/bin/black --check --quiet $(CODE)
	$(DEV)/bin/isort --check $(CODE)
	$(DEV)/bin/flake8 $(CODE)
	$(DEV)/bin/mypy
	@! docker compose version >/dev/null 2>&1 || \
		POSTGRES_PASSWORD=any docker compose --profile '*' config --quiet
	@! hadolint --version >/dev/null 2>&1 || hadolint Dockerfile.serve Dockerfile.train

format: $(DEV)/ready  ## put the code into its one style
	$(DEV)/bin/ruff check --fix --quiet $(CODE)
	$(DEV)/bin/ruff format $(CODE)

lock: $(DEV)/ready  ## resolve requirements-serve.in anew, with hashes
	CUSTOM_COMPILE_COMMAND="make lock" $(DEV)/bin/pip-compile --quiet --upgrade --generate-hashes \
		--strip-extras --allow-unsafe --no-emit-index-url --no-emit-find-links \
		--no-emit-trusted-host --no-emit-options --output-file requirements-serve.txt \
		requirements-serve.in

upgrade: lock  ## resolve what serves anew, install it, and run all tests
	$(MAKE) test

licences: $(DEV)/ready  ## list the terms under which all dependencies come
	@$(DEV)/bin/pip-licenses --order=license

clean:  ## remove the virtual environments and caches
	rm -rf $(SERVE) $(DEV) .mypy_cache .pytest_cache .ruff_cache

$(SERVE)/ready: requirements-serve.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(SERVE)
	$(SERVE)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-serve.txt
	@touch $@

$(DEV)/ready: requirements-serve.txt requirements-train.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(DEV)
	$(DEV)/bin/pip install --quiet --disable-pip-version-check -r requirements-serve.txt
	$(DEV)/bin/pip install --quiet --disable-pip-version-check -r requirements-train.txt -r requirements-dev.txt
	@touch $@
