# Everything that can be asked of a checkout; `make` lists it. Written for any POSIX make.
# Each target makes its own environment in $(VENV) first, and only once: from then on a change under csrc rebuilds.
# The build takes the CUDA half along where nvcc fits torch (CVKERNELS_CUDA=0 leaves it out): 2 minutes of one
# core without it, and for each architecture of the release list some 42 s of one core more (nvcc 13.0, sm_90).

.POSIX:

PYTHON = python3
VENV = .venv
ARGS =

# make demo
DATA = digits
DATA_ROOT =
ACCEPT_CHECKSUM_MISMATCH =
SEED = 0
DEVICE = auto
OUT = demo

# make test: processes, each of which works through whole files and takes up to 3 GB
JOBS = 2

# make gpu, where there is no git folder to ask
COMMIT =

TORCH = torch>=2.11
NUMPY = numpy
PACKAGES = "$(TORCH)" torchvision "$(NUMPY)" scikit-learn matplotlib safetensors rich \
	pytest pytest-benchmark pytest-xdist "setuptools>=68" wheel ninja pybind11
LINTERS = ruff mypy clang-format

help:
	@echo "make demo    train, attack and report a defended LeNet: DATA=digits|cifar10 DATA_ROOT= SEED=0 DEVICE=auto OUT=demo"
	@echo "             ACCEPT_CHECKSUM_MISMATCH=1 reads a copy of CIFAR-10 whose checksum differs"
	@echo "make test    the test suite, its GPU half too where there is one (JOBS=2 processes; ARGS=... goes to pytest)"
	@echo "make oldest  the test suite with torch 2.11, the oldest that is promised"
	@echo "make gate    compile the Triton and CUDA kernels for every architecture; needs no GPU"
	@echo "make bench   ours against naive (ARGS=\"--against all\" and others go to python -m benchmarks; ARGS=plot draws)"
	@echo "make gpu     build, test and measure on a machine with a GPU, offline, with the python that is there (COMMIT=...)"
	@echo "make lint    ruff, mypy, clang-format"
	@echo "make clean   remove what was built, the environment too"
	@echo "PYTHON=...   the Python to use, 3.10 or later (default python3)"

demo: environment
	@set -- --data "$(DATA)" --seed "$(SEED)" --device "$(DEVICE)" --out "$(OUT)"; \
	if [ -n "$(DATA_ROOT)" ]; then set -- "$$@" --data-root "$(DATA_ROOT)"; fi; \
	case "$(ACCEPT_CHECKSUM_MISMATCH)" in ""|0) ;; *) set -- "$$@" --accept-checksum-mismatch ;; esac; \
	exec "$(VENV)/bin/python" -m experiments demo "$$@" $(ARGS)

test: environment
	@"$(VENV)/bin/python" -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

gate: environment
	@"$(VENV)/bin/python" -m tests.gate $(ARGS)

bench: environment
	@"$(VENV)/bin/python" -m benchmarks $(ARGS)

# In an environment beside $(VENV): C++17, the headers that later ones have grown out of, and a Triton whose interpreter
# NumPy 2.4 refuses.
oldest:
	@$(MAKE) test VENV="$(VENV)-oldest" TORCH="torch==2.11.*" NUMPY="numpy<2.4" PYTHON="$(PYTHON)" JOBS="$(JOBS)" ARGS="$(ARGS)"

# No environment of its own: that machine may be offline, and its python has torch already.
gpu: python
	@COMMIT="$(COMMIT)"; export COMMIT; exec "$(PYTHON)" -m tests.gpu $(ARGS)

lint: environment
	@[ -e "$(VENV)/.linters" ] || { "$(VENV)/bin/python" -m pip install -q $(LINTERS) && : > "$(VENV)/.linters"; }
	"$(VENV)/bin/ruff" check .
	"$(VENV)/bin/ruff" format --check .
	"$(VENV)/bin/mypy"
	@[ ! -e .clang-format ] || find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' | \
		xargs "$(VENV)/bin/clang-format" --dry-run -Werror

# The stamps are written last, so an interrupted installation is taken up again. The PATH is for ninja, which may be in
# the environment alone; without it the files compile one after another.
environment: python
	@if [ ! -e "$(VENV)/.packages" ] || [ Makefile -nt "$(VENV)/.packages" ]; then \
		"$(PYTHON)" -c "import ensurepip, venv" 2>/dev/null || { \
			echo "cvkernels: $(PYTHON) cannot make an environment; install its venv module (Debian, Ubuntu: apt install python3-venv)" >&2; \
			exit 1; }; \
		echo "making the environment in $(VENV) (torch is a large download; minutes, once)"; \
		"$(PYTHON)" -m venv "$(VENV)" && \
		"$(VENV)/bin/python" -m pip install -q $(PACKAGES) && \
		: > "$(VENV)/.packages" || exit 1; \
	fi
	@if [ ! -e "$(VENV)/.installed" ] || [ "$(VENV)/.packages" -nt "$(VENV)/.installed" ] || \
		[ -n "$$(find csrc setup.py pyproject.toml cvkernels/__init__.py -newer "$(VENV)/.installed")" ]; then \
		echo "building cvkernels"; \
		PATH="$$(cd "$(VENV)/bin" && pwd):$$PATH"; export PATH; \
		: > "$(VENV)/.building" && \
		"$(VENV)/bin/python" -m pip install -v --no-build-isolation --no-deps -e . > "$(VENV)/build.log" 2>&1 || { \
			tail -n 40 "$(VENV)/build.log" >&2; echo "cvkernels: the build failed; all of it is in $(VENV)/build.log" >&2; exit 1; }; \
		sed -n 's/^ *\(cvkernels: .*\)/\1/p' "$(VENV)/build.log" | sort -u; \
		mv "$(VENV)/.building" "$(VENV)/.installed"; \
	fi

python:
	@command -v "$(PYTHON)" >/dev/null || { echo "cvkernels: no $(PYTHON) found; name one: make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c "import sys; sys.exit(sys.version_info < (3, 10))" || { \
		echo "cvkernels needs Python 3.10 or later, $(PYTHON) is $$("$(PYTHON)" -V 2>&1); name another: make PYTHON=python3.12" >&2; exit 1; }

# An environment without our stamp is not ours to remove.
clean:
	rm -rf build dist *.egg-info cvkernels/*.so .pytest_cache .ruff_cache .mypy_cache .benchmarks
	find . -name __pycache__ ! -path "./$(VENV)/*" -prune -exec rm -rf {} +
	@if [ -e "$(VENV)/.packages" ]; then echo "rm -rf $(VENV)"; rm -rf "$(VENV)"; fi

.PHONY: help demo test oldest gate bench gpu lint environment python clean
