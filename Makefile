# `make help` lists the targets. They need Python 3.11 or newer and a package index.

PYTHON ?= python3
SERVE := .venv
DEV := .venv-dev
CODE := train export webapp tests bench deploy
SEEDS ?= 2 1 0  # make export uses the last one
MODELS ?= artifacts
# Set it to nothing to use one process. By default, pytest-xdist leaves the longest tests for the end.
PARALLEL ?= -n 2 --dist loadfile --no-loadscope-reorder

define CHECK_PYTHON
import platform, sys
if sys.version_info < (3, 11):
    sys.exit('Python 3.11 or newer is needed: make PYTHON=python3.12 ...')
machine, libc = f'{platform.system()} {platform.machine()}', platform.libc_ver()[0]
if machine not in ('Linux x86_64', 'Linux aarch64', 'Darwin arm64') or (machine[0] == 'L' and libc != 'glibc'):
    sys.exit(f'onnxruntime has no wheel for this platform ({machine}, {libc or "no glibc"}). '
             'It needs Linux with glibc on x86-64 or arm64, or macOS on Apple silicon.')
endef
export CHECK_PYTHON

# One thread in each test process: more would compete for the cores.
test check: export OMP_NUM_THREADS := 1

.DEFAULT_GOAL := help
.PHONY: help run test e2e check lint format contract bench pictures mutants page-mutants check-images \
	screenshots model train retrain demo-learning seeds ablation export rollback lock upgrade licences sbom digests clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "%-13s  %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(SERVE)/ready  ## serve on http://127.0.0.1:8000 (settings: see .env.example)
	@exec $(SERVE)/bin/python -m webapp

test: $(DEV)/ready  ## run the tests (ARGS="-k label")
	$(DEV)/bin/python -m pytest $(PARALLEL) $(ARGS)

e2e: $(DEV)/ready  ## run the browser tests
	$(DEV)/bin/python -m pytest tests/test_browser.py $(ARGS)

check: lint  ## run everything that must pass before a change is merged
	@! git grep -nE 'TODO|FIXME' -- ':!Makefile'
	$(DEV)/bin/coverage erase
	$(DEV)/bin/coverage run -m pytest $(PARALLEL) $(ARGS)
	$(DEV)/bin/coverage combine --quiet
	$(DEV)/bin/coverage report --show-missing --skip-covered

lint: $(DEV)/ready  ## check style and types
	$(DEV)/bin/ruff check $(CODE)
	$(DEV)/bin/ruff format --check $(CODE)
	$(DEV)/bin/mypy
	@! docker compose version >/dev/null 2>&1 || \
		POSTGRES_PASSWORD=any docker compose --profile '*' config --quiet
	@! hadolint --version >/dev/null 2>&1 || hadolint Dockerfile.serve Dockerfile.train

format: $(DEV)/ready  ## format the code
	$(DEV)/bin/ruff check --fix --quiet $(CODE)
	$(DEV)/bin/ruff format $(CODE)

contract: $(DEV)/ready  ## test the API against webapp/openapi.json with 2,000 cases
	$(DEV)/bin/python -m pytest tests/test_service.py -k openapi --max-examples 110

bench: $(DEV)/ready  ## compare the service with in-process inference (ARGS: see bench/speed.py)
	@$(DEV)/bin/python -m bench.speed $(ARGS)

pictures: $(DEV)/ready  ## read synthetic photographs, and draw them in artifacts/report/pictures.png
	$(DEV)/bin/python -m bench.pictures $(ARGS)

check-images: $(DEV)/ready  ## build the images and test the compose file (needs Docker)
	$(DEV)/bin/python -m bench.containers $(ARGS)

mutants: $(DEV)/ready  ## count the changes to the code that the tests notice (ARGS: see bench/mutants.py)
	$(DEV)/bin/python -m bench.mutants $(ARGS)

page-mutants: $(DEV)/ready  ## count the changes to the page that the browser tests notice
	$(DEV)/bin/python -m bench.page_mutants

screenshots: $(DEV)/ready  ## take the screenshots in docs/
	$(DEV)/bin/python -m tests.screenshots docs

model: train  ## train a model and export it to artifacts/ if it is better
	$(DEV)/bin/python -m export

train: $(DEV)/ready  ## train a model into runs/ (ARGS="--epochs 1"; see python -m train --help)
	$(DEV)/bin/python -m train $(ARGS)

retrain: $(DEV)/ready  ## fine-tune the model on reviewed labels, and export it if it is better
	$(DEV)/bin/flask --app webapp.app predictions export --labelled labels.npz
	$(DEV)/bin/python -m train --labelled labels.npz $(ARGS)
	$(DEV)/bin/python -m export

demo-learning: $(DEV)/ready  ## simulate learning from labels (ARGS="reviewed --epochs 2")
	$(DEV)/bin/python -m bench.learning $(ARGS)

seeds: $(DEV)/ready  ## train once with each of SEEDS to measure the variance across seeds
	for seed in $(SEEDS); do $(DEV)/bin/python -m train --seed $$seed $(ARGS) || exit; done

ablation: $(DEV)/ready  ## measure the effect of each part of the recipe in short runs
	$(DEV)/bin/python -m train.ablation $(ARGS)

export: $(DEV)/ready  ## export the latest run to artifacts/ if it is better (ARGS="--force")
	$(DEV)/bin/python -m export $(ARGS)

rollback:  ## restore an earlier model in MODELS (VERSION=...); a running service loads it
	@$(PYTHON) -m export rollback --artifacts $(MODELS) $(VERSION)

lock: $(DEV)/ready  ## resolve requirements-*.in to the latest versions, with hashes
	for part in serve train; do \
		CUSTOM_COMPILE_COMMAND="make lock" $(DEV)/bin/pip-compile --quiet --upgrade --generate-hashes \
		--strip-extras --allow-unsafe --no-emit-index-url --no-emit-find-links \
		--no-emit-trusted-host --no-emit-options --output-file requirements-$$part.txt \
		requirements-$$part.in || exit; done

upgrade: lock  ## update the dependencies of the service and of training, and run the tests
	$(MAKE) test

licences: $(DEV)/ready  ## list the licences of all dependencies
	@$(DEV)/bin/pip-licenses --order=license

sbom:  ## print the packages of the service as a CycloneDX document
	@$(PYTHON) deploy/sbom.py requirements-serve.txt

digests:  ## print the current digests of the base images, for .env (needs Docker and a registry)
	@for image in PYTHON=python:3.12-slim POSTGRES=postgres:17 CADDY=caddy:2; do \
		digest=$$(docker buildx imagetools inspect --format '{{.Manifest.Digest}}' $${image#*=}) || exit; \
		echo "$${image%%=*}_IMAGE=$${image#*=}@$$digest"; done

clean:  ## remove the virtual environments and caches
	rm -rf $(SERVE) $(DEV) .mypy_cache .pytest_cache .ruff_cache .mutants

$(SERVE)/ready: requirements-serve.txt
	@$(PYTHON) -c "$$CHECK_PYTHON"
	$(PYTHON) -m venv $(SERVE)
	$(SERVE)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-serve.txt
	@touch $@

$(DEV)/ready: requirements-serve.txt requirements-train.txt requirements-torch.txt requirements-dev.txt
	@$(PYTHON) -c "$$CHECK_PYTHON"
	$(PYTHON) -m venv $(DEV)
	$(DEV)/bin/pip install --quiet --disable-pip-version-check -r requirements-serve.txt
	$(DEV)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-train.txt
	$(DEV)/bin/pip install --quiet --disable-pip-version-check -r requirements-torch.txt -r requirements-dev.txt
	@touch $@
