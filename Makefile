# make demo   the whole method on a tiny model
# make test   lint, types, import rules, tests: what CI runs
# Both make their own environment first; PYTHON=python3.12 chooses another interpreter.

PYTHON ?= python3
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
VENV := .venv-$(VERSION)
BIN := $(VENV)/bin
export DETOX_JAX_DATA ?= ../shared/data
# Processes that `make test` spreads the tests over: one more than there are processors, at most 8,
# for each takes 2 to 3 GB.
WORKERS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN); [ $$n -lt 8 ] && expr $$n + 1 || echo 8)

.PHONY: demo test real steering sweep-demo plan bench chaos notebooks test-real test-slow test-multihost test-bucket \
    test-lock test-interop test-adapterhub test-t5x lint types fix clean locks audit docs

demo: $(VENV)/installed
	$(BIN)/detox-jax sgeat --gin_file=gin_configs/experiments/demo.gin

real: $(VENV)/installed-judges
	JAX_NUM_CPU_DEVICES=2 $(BIN)/detox-jax sgeat --gin_file=gin_configs/experiments/real.gin

# Methods that steer the decoding beside those that train, on the demo's base (docs/STEERING.md).
steering: $(VENV)/installed
	$(BIN)/detox-jax sgeat --gin_file=gin_configs/experiments/steering.gin

# Six cells on the demo's base, one table (docs/SWEEP.md).
sweep-demo: $(VENV)/installed
	$(BIN)/detox-jax sweep --gin_file=gin_configs/experiments/sweep_demo.gin

# The table of docs/PERFORMANCE.md, beside transformers, torch, pandas and others.
bench: $(VENV)/installed-bench
	$(BIN)/python -m benchmarks.speed.run
	$(BIN)/python -m benchmarks.speed.table

# The table of docs/PLAN.md, compiled for TPUs that are not here; goes on where it was interrupted.
plan: $(VENV)/installed-tpu
	$(BIN)/python benchmarks/plan_table.py

# The documentation as a site, in site/; a link that leads nowhere fails.
docs: $(VENV)/installed-docs
	$(BIN)/python -m mkdocs build --strict --quiet
	$(BIN)/python -m docs_site.links site

# Kills, signals, damage, full disks, fuzzing, a soak (docs/RELIABILITY.md); fuzzing alone takes 600 s
# for each reader. A short round: CHAOS_KILLS_IN_SAVES, CHAOS_KILLS, CHAOS_KILLS_OF_ONE,
# CHAOS_SGEAT_KILLS, CHAOS_SIGNALS, CHAOS_DAMAGES, CHAOS_PAIRS, CHAOS_STORAGE, CHAOS_FUZZ_SECONDS,
# CHAOS_SOAK_SHARE (in per cent); some classes: CHAOS="-k saves". CHAOS_GO_ON=1 goes on with a round that was
# broken off. The table is written whatever the outcome.
chaos: $(VENV)/installed-test
	$(BIN)/python -m pytest -m chaos tests/chaos $(CHAOS); status=$$?; \
	    $(BIN)/python -m tests.chaos.table && exit $$status

# Workers and hundreds of subprocesses read the same modules: where PYTHONDONTWRITEBYTECODE is set, each
# would compile them anew, and pytest rewrite all tests in every worker.
test: export PYTHONDONTWRITEBYTECODE :=
test: lint types
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile \
	    -m "not real and not slow and not interop and not bucket and not chaos"

test-real: $(VENV)/installed-test
	$(BIN)/python -m pytest -m real

test-slow: $(VENV)/installed-test
	$(BIN)/python -m pytest -m slow

# Both notebooks, and what they show stored in them.
notebooks: $(VENV)/installed-test
	$(BIN)/python -m tests.notebooks.executed

# Two and four processes on loopback, and one, do the same; what a lost one ends in.
test-multihost: $(VENV)/installed-test
	$(BIN)/python -m pytest tests/parallel/processes_test.py tests/parallel/links_test.py \
	    tests/parallel/distributed_test.py tests/parallel/multihost_test.py

# Checkpoints and verbs in gs://, on a stand-in for Google Cloud Storage.
test-bucket: $(VENV)/installed-test
	openssl version
	$(BIN)/python -m pytest -n 2 tests/bucket

# The same in what a TPU's workers install: pytest stays in its own environment, so that what it
# brings along cannot stand in for a package that requirements.lock lacks.
test-lock: $(VENV)-lock/installed $(VENV)/installed-test
	openssl version
	$(VENV)-lock/bin/python -m pip check
	DETOX_JAX_LOCK_PYTHON=$(abspath $(VENV)-lock/bin/python) $(BIN)/python -m pytest -n 2 tests/bucket

# Compares with transformers and torch, which nothing else needs.
test-interop: $(VENV)/installed-interop
	$(BIN)/python -m pytest -n 2 --dist loadfile -m interop

# AdapterHub's library wants an older transformers than everything else.
test-adapterhub: $(VENV)-adapterhub/installed
	$(VENV)-adapterhub/bin/python -m pytest -m interop \
	    tests/interop/adapterhub_test.py tests/interop/stories_test.py

# T5X's own train.py, eval.py and infer.py, at the commits of the extra t5x, from GitHub.
test-t5x: $(VENV)-t5x/installed
	$(VENV)-t5x/bin/python -m pytest -m interop tests/interop/t5x_test.py
	$(VENV)-t5x/bin/python -m pytest tests/tasks/caching_test.py

# Every extra's versions with the hashes of their files, each but `core` with `train`; UPGRADE=--upgrade renews what is there. T5X
# itself comes from commits of GitHub, which are hashes already.
LOCKED := core train parquet judges duplicates transport words cuda remote hf lm-eval beam t5x-requirements wandb docs test
COMPILE := $(VENV)-supply/bin/uv pip compile pyproject.toml --quiet --python-version 3.11 \
    --python-platform x86_64-manylinux_2_31 --no-header --no-annotate --generate-hashes $(UPGRADE)

locks: $(VENV)-supply/installed
	$(COMPILE) --extra tpu --extra judges --extra train -o tpu_scripts/requirements.lock
	for extra in $(LOCKED); do \
	    $(COMPILE) $$([ $$extra = core ] || echo --extra train --extra $$extra) -o locks/$$extra.txt || exit 1; \
	done

# Known vulnerabilities of what the locks pin, by PyPI's own service. --strict, or pip-audit would
# pass over a package that the service does not answer for and call it clean.
audit: $(VENV)-supply/installed
	for lock in tpu_scripts/requirements.lock locks/*.txt; do echo $$lock; \
	    $(VENV)-supply/bin/pip-audit --strict --require-hashes --disable-pip --progress-spinner off \
	        --vulnerability-service pypi --requirement $$lock || exit 1; \
	done

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-test
	$(BIN)/pyright --pythonpath $(BIN)/python

fix: $(VENV)/installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv-* .pytest_cache .ruff_cache runs/demo

# uv installs in a quarter of pip's time, and takes the TensorFlow without CUDA where there is one,
# 0.8 GB less: here it reads text. pip, where uv finds no index, and where the other one is already.
ON_LINUX := sys_platform == 'linux' and platform_machine == 'x86_64'
ELSEWHERE := sys_platform != 'linux' or platform_machine != 'x86_64'
WITH_UV := $(BIN)/python -m pip install --quiet uv==0.13.9 && \
    printf '%s\n' "tensorflow ; $(ELSEWHERE)" > $(VENV)/overrides.txt && \
    $(BIN)/uv pip install --quiet --python $(BIN)/python --override $(VENV)/overrides.txt \
        --editable '.[train]' "tensorflow-cpu>=2.18 ; $(ON_LINUX)"

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(if $(wildcard $(VENV)/lib/python*/site-packages/tensorflow-[0-9]*),,{ $(WITH_UV); } ||) \
	    $(BIN)/python -m pip install --quiet --editable '.[train]'
	touch $@

$(VENV)/installed-judges: pyproject.toml $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable '.[judges]'
	touch $@

$(VENV)/installed-tpu: pyproject.toml $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable '.[tpu]'
	touch $@

$(VENV)/installed-docs: pyproject.toml $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

# Tests start hundreds of processes. uv leaves no bytecode, and where PYTHONDONTWRITEBYTECODE is set,
# as in many containers, each would compile TensorFlow's sources anew, which takes ten seconds.
$(VENV)/installed-test: pyproject.toml $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	$(BIN)/python -m compileall -q -j 0 $(VENV)/lib || true
	touch $@

$(VENV)/installed-interop: pyproject.toml $(VENV)/installed-test
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable '.[test,hf,lm-eval]'
	touch $@

$(VENV)/installed-bench: pyproject.toml $(VENV)/installed
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable '.[hf]' alt-profanity-check pandas
	touch $@

# Without their dependencies, or pip would add what the lock lacks.
$(VENV)-lock/installed: pyproject.toml tpu_scripts/requirements.lock
	rm -rf $(VENV)-lock
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet --no-deps --require-hashes \
	    -r tpu_scripts/requirements.lock
	$(VENV)-lock/bin/python -m pip install --quiet --no-deps --editable .
	touch $@

$(VENV)-supply/installed:
	$(PYTHON) -m venv $(VENV)-supply
	$(VENV)-supply/bin/python -m pip install --quiet uv==0.13.9 pip-audit==2.10.1
	touch $@

$(VENV)-adapterhub/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)-adapterhub
	$(VENV)-adapterhub/bin/python -m pip install --quiet torch==2.13.0
	$(VENV)-adapterhub/bin/python -m pip install --quiet --editable '.[train,test]' 'adapters==1.3.0'
	touch $@

# T5X's metadata asks for versions that contradict each other; what it needs is in t5x-requirements.
$(VENV)-t5x/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)-t5x
	$(VENV)-t5x/bin/python -m pip install --quiet --editable '.[train,test,beam,t5x-requirements]'
	$(VENV)-t5x/bin/python -c "import tomllib; \
	    print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['t5x'], \
	        sep='\n')" > $(VENV)-t5x/t5x.txt
	$(VENV)-t5x/bin/python -m pip install --quiet --no-deps -r $(VENV)-t5x/t5x.txt
	touch $@
