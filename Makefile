# make evals ARGS="-k gptq4"   run the evaluation suite        make test   run the suite's own tests
# Each sets up .venv/ with pinned versions on first use; later calls start at once.
PYTHON ?= python3
PIP := .venv/bin/python -m pip install --quiet --disable-pip-version-check
ARGS ?=
MODES ?= all
THREADS ?= 1,2

.PHONY: evals test test-processors lint clean

evals: .venv/.ready
	@.venv/bin/python -m pytest evals $(ARGS)

test: .venv/.ready
	@.venv/bin/python -m pytest tests -n auto --dist worksteal $(ARGS)

# the tests as other processors would compute them: MODES=all|other|avx2,default  THREADS=1,2
test-processors: .venv/.ready
	@.venv/bin/python tests/processors.py --modes $(MODES) --threads $(THREADS) $(ARGS)

lint: .venv/.ready
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy && .venv/bin/lint-imports --no-cache

.venv/.ready: requirements.txt requirements-bundled.txt pyproject.toml
	@echo "setting up .venv (once)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "quantgate needs Python 3.11 or newer, found " + sys.version.split()[0])'
	@$(PYTHON) -m venv .venv
	@# torch by itself first: a range in another package must not pull a newer build in
	@$(PIP) $$(grep '^torch==' requirements.txt)
	@$(PIP) -r requirements.txt
	@$(PIP) --no-deps -r requirements-bundled.txt
	@$(PIP) --no-deps -e .  # the command quantgate
	@touch $@

clean:
	rm -rf .venv reports/out
