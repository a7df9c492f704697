# make train    train the model on MNIST (DATA=folder with the IDX files or mnist.npz; ARGS=more options)
# make test     the tests and doctests
# make test-slow  the tests that take minutes each: every promise of every op, every command of the pages
# make test-oldest  the suite on the oldest supported versions, constraints/oldest.txt, on Python 3.11
# make stress   8 threads of mixed ops on each threading layer, for SECONDS=60 each
# make lint     ruff and mypy
# make docs     the documentation and API reference, as HTML in docs/_build/html; a warning is an error
# make notebook docs/tutorial.ipynb, made from docs/tutorial.md and run
# make ratios   the tables of README.md and docs/ratios.md, from asv_benchmarks/results/peers.json
# make cuda-figures  the counters and static bounds of docs/cuda.md, made on the emulated GPU
# make fuzz     24,000 random calls (NBOPS_FUZZ_SEED=n repeats one run)
# make bounds   the suite under Numba's bounds checks
# make coverage the interpreted loops cover every line of nbops/ops
# make mutants  small changes of nbops/ops and the dispatcher: the tests must notice nine in ten
# make bench    the benchmarks, for the commit that is checked out, in under 10 minutes (BENCH="--bench rows": some)
# make bench-history  a short list of them for the last commits that touched nbops/ (COMMITS=6)
# make bench-report   the results as a web site, asv_benchmarks/html/index.html
# make bench-check    the short list, this commit against the one before: fails where one is 1.15 times slower
# make bench-peers  nbops beside NumPy, torch, JAX, TensorFlow, Keras and numexpr (ARGS=--only softmax, --json FILE)
# make bench-dask   Dask with nbops beside Dask with NumPy (ARGS=--rounds 30, --json FILE)
# make scaling      the constants of docs/scaling.md, measured here
# make dask-memory  arrays of 8 GiB on Dask workers of 1 GiB
#
# Each makes its own virtual environment and installs what it needs; Python and make are all it takes.

PYTHON ?= python3
VENV ?= .venv
ENV = $(VENV)/installed
export TF_CPP_MIN_LOG_LEVEL ?= 2

SECONDS ?= 60

.PHONY: train test test-slow test-oldest stress lint docs notebook ratios cuda-figures asv bench bench-history bench-report bench-check bench-peers clean fuzz bounds coverage mutants bench-dask dask-memory scaling

train: ARGS ?= --epochs 10 --batch-size 32
train: $(ENV)
	$(VENV)/bin/python examples/train_mnist.py $(if $(DATA),--data "$(DATA)") $(ARGS)

test: $(ENV)
	$(VENV)/bin/python -m pytest -n auto -m "not slow and not distributed and not alone" $(ARGS)
	$(VENV)/bin/python -m pytest -m alone $(ARGS) || test $$? = 5  # 5: ARGS choose none of them

# Without its dependencies: tf-keras asks for the package tensorflow, and tensorflow-cpu is installed.
test-slow: $(ENV)
	$(VENV)/bin/python -m pip install --quiet --no-deps tf-keras
	$(VENV)/bin/python -m pytest -n auto -m "slow or distributed" $(ARGS)

# In an environment of its own; PYTHON must be a Python 3.11.
test-oldest:
	$(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/python -m pip install --quiet -c constraints/oldest.txt -e ".[test,examples,tensorflow-cpu]"
	$(VENV)-oldest/bin/python -m pytest -n auto $(ARGS)

stress: $(ENV)
	for layer in omp tbb workqueue; do \
		for mode in "" --tensorflow; do \
			NUMBA_THREADING_LAYER=$$layer $(VENV)/bin/python -m tests.stress --seconds $(SECONDS) $$mode || exit 1; \
		done; \
	done

lint: $(ENV)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy --strict nbops

docs: $(ENV)
	$(VENV)/bin/python -m pip install --quiet -e ".[docs]"
	$(VENV)/bin/python -m sphinx --quiet --fail-on-warning --keep-going docs docs/_build/html
	@echo "docs/_build/html/index.html"

notebook: $(ENV)
	$(VENV)/bin/python docs/make_notebook.py $(ARGS)

ratios: $(ENV)
	$(VENV)/bin/python docs/make_ratios.py

cuda-figures: $(ENV)
	$(VENV)/bin/python docs/make_cuda.py

fuzz: $(ENV)
	for part in 0 1 2 3 4 5 6 7; do \
		$(VENV)/bin/python -m pytest --hypothesis-profile=nightly tests/test_fuzz.py -k part$$part $(ARGS) || exit 1; \
	done

bounds: $(ENV)
	NUMBA_BOUNDSCHECK=1 $(VENV)/bin/python -m pytest -n auto -W error::pytest.PytestUnraisableExceptionWarning $(ARGS)

INTERPRETED = NUMBA_DISABLE_JIT=1 NBOPS_TENSORFLOW_OPS=numpy_function $(VENV)/bin/python -m pytest --cov=nbops/ops
coverage: $(ENV)
	$(INTERPRETED) -k "not serial and not parallel and not asked_for and not can_be_replaced" \
		tests/test_interpreted.py tests/test_values.py tests/test_gradients.py tests/test_semantics.py
	$(INTERPRETED) --cov-append -k "test_values" tests/test_dask.py tests/test_dtypes.py
	$(INTERPRETED) --cov-append -k "copies or another_dtype" tests/test_promotion.py tests/targets/test_device_arrays.py
	$(INTERPRETED) --cov-append --cov-report=term-missing --cov-fail-under=100 \
		tests/tensorflow/test_ops.py tests/tensorflow/test_semantics.py

mutants: $(ENV)
	$(VENV)/bin/python -m tests.mutation $(ARGS)

# One machine name for all results, so that the history outlives a machine and names none.
ASV = cd asv_benchmarks && ../$(VENV)/bin/asv
MACHINE ?= reference
PRESET ?= -a rounds=1 -a repeat=5 -a sample_time=0.01 -a warmup_time=0.05
SHORT ?= elementwise.AddRelu.time|products.Matmul.time|rows.Softmax.time|dense|dispatch_overhead|FirstCall|Import
COMMITS ?= 6

asv: $(ENV)
	$(VENV)/bin/python -m pip install --quiet -e ".[bench]"
	$(ASV) machine --yes --machine $(MACHINE)

bench: asv
	$(ASV) run --machine $(MACHINE) $(PRESET) --show-stderr $(BENCH) HEAD^!

bench-history: asv
	git log -n $(COMMITS) --format=%H -- nbops > asv_benchmarks/commits.txt
	$(ASV) run --machine $(MACHINE) $(PRESET) --skip-existing-successful --bench "$(SHORT)" HASHFILE:commits.txt
	rm asv_benchmarks/commits.txt

bench-report: asv
	$(ASV) publish

bench-check: asv
	$(ASV) continuous --machine $(MACHINE) --factor 1.15 --bench "$(SHORT)" HEAD^ HEAD

bench-peers: $(ENV)
	$(VENV)/bin/python -m pip install --quiet -e ".[peers]"
	$(VENV)/bin/python -m nbops compare $(ARGS)

bench-dask: $(ENV)
	$(VENV)/bin/python asv_benchmarks/dask_against_numpy.py $(ARGS)

scaling: $(ENV)
	$(VENV)/bin/python asv_benchmarks/scaling_constants.py $(ARGS)

dask-memory: $(ENV)
	$(VENV)/bin/python examples/dask_larger_than_memory.py $(ARGS)

$(ENV): setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet -e ".[test,examples,tensorflow-cpu]"
	touch $(ENV)

clean:
	rm -rf $(VENV) build dist *.egg-info
