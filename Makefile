# make train    train the model on MNIST (DATA=folder with the IDX files or mnist.npz; ARGS=more options)
# make test     every test and doctest
# make lint     ruff and mypy
# make bench    the benchmarks, for the commit that is checked out
# make bench-peers  nbops beside NumPy, torch, JAX, TensorFlow, Keras and numexpr (ARGS=--only softmax, --json FILE)
#
# Each makes its own virtual environment and installs what it needs; Python and make are all it takes.

PYTHON ?= python3
VENV ?= .venv
ENV = $(VENV)/installed
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: train test lint bench bench-peers clean

train: ARGS ?= --epochs 10 --batch-size 32
train: $(ENV)
	$(VENV)/bin/python examples/train_mnist.py $(if $(DATA),--data "$(DATA)") $(ARGS)

test: $(ENV)
	$(VENV)/bin/python -m pytest -n auto $(ARGS)

lint: $(ENV)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy --strict nbops

bench: $(ENV)
	$(VENV)/bin/python -m pip install --quiet -e ".[bench]"
	cd asv_benchmarks && ../$(VENV)/bin/asv machine --yes && ../$(VENV)/bin/asv run --quick --show-stderr HEAD^!

bench-peers: $(ENV)
	$(VENV)/bin/python -m pip install --quiet -e ".[peers]"
	$(VENV)/bin/python -m nbops compare $(ARGS)

$(ENV): setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet -e ".[test,examples,tensorflow-cpu]"
	touch $(ENV)

clean:
	rm -rf $(VENV) build dist *.egg-info
