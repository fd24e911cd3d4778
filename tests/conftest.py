"""Seeds, backends, threads, what runs first, and uninitialised memory filled with NaN."""

import contextlib
import os

# Two processes of two threads each wait for each other on two cores: test_conv2d took 248 s so, and 39 s with one each
# (Intel Xeon). A test that is about threads asks for its own. Read when torch is imported, and by what a test starts.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

os.environ["CVKERNELS_FILL"] = "1"  # what C++ makes is to be NaN too, see csrc/common/shape.h

import shutil
import warnings
from dataclasses import dataclass

import pytest
import torch

import cvkernels.functional  # noqa: F401  (every room declares its kernels in backend.OPS)
from cvkernels import backend as house

# cuBLAS reads it when its first handle is made; without it deterministic mode refuses matrix products
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
GPU = torch.cuda.is_available()
HALVES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Backend:
    """A backend to force (None: whatever is chosen) and where its tensors live."""

    name: str | None
    device: str = "cpu"

    def __str__(self):
        place = "-cuda" if self.device == "cuda" and self.name not in ("cuda", "triton") else ""
        return f"{self.name or 'chosen'}{place}"

    def use(self):
        return house.use_backend(self.name) if self.name else contextlib.nullcontext()

    @property
    def compiled(self) -> bool:
        """Runs kernels of ours, not torch's."""
        return self.name not in ("reference", None)

    def dtypes(self, op: str | None = None) -> tuple:
        """What it takes, by the operation's own table; of no operation in particular, float32 and wider."""
        if self.compiled and op in house.OPS:
            return getattr(house.OPS[op], self.name)
        every = {d for row in house.OPS.values() for d in getattr(row, self.name)} if self.compiled else house.FLOATS
        return tuple(d for d in house.FLOATS if d in every)

    def widest(self, op: str | None = None) -> torch.dtype:
        """float64 where it is taken: Triton's kernels have none."""
        return max(self.dtypes(op), key=lambda dtype: dtype.itemsize)


def expected() -> list[str]:
    """Backends whose absence is a failure: CVKERNELS_EXPECT (comma-separated), else what this machine can have."""
    if "CVKERNELS_EXPECT" in os.environ:
        return [name for name in os.environ["CVKERNELS_EXPECT"].split(",") if name]
    compilers = (os.environ.get("CXX"), "c++", "g++", "clang++")
    cpu = ["cpu"] if any(map(shutil.which, filter(None, compilers))) else []
    return cpu + (["triton"] if GPU else []) + (["cuda"] if GPU and shutil.which("nvcc") else [])


def kernels(op: str | None = None) -> list[Backend]:
    """The backends with kernels of ours that this machine has or must have; with ``op``, those that op ever has.

    Triton's interpreter takes minutes for what a device does in one launch: it is among them where TRITON_INTERPRET and
    CVKERNELS_EXPECT both ask for it, on CPU tensors. So the tests that a GPU is held to run without one.
    """
    found = [Backend("cpu")] if "cpu" in expected() or not house.absent("cpu") else []
    for name in ("triton", "cuda"):
        if name in expected() or GPU and not house.absent(name) and not house.interpreting():
            found.append(Backend(name, "cpu" if name == "triton" and house.interpreting() else "cuda"))
    return [b for b in found if op is None or getattr(house.OPS[op], b.name) and _by_default(op, b)]


def _by_default(op: str, b: Backend) -> bool:
    """Whether the table ever chooses it: what only `use_backend` reaches is tested where its kernels are."""
    row = house.default(op, "cpu" if b.name == "cpu" else "cuda")  # interpreted or emulated it stands for a GPU's
    return row is not None and b.name in row.order


def all_backends(op: str | None = None) -> list[Backend]:
    """The reference, then the kernels; for an op without any, the form of it that is chosen where nothing is forced."""
    devices = ("cpu", "cuda") if GPU else ("cpu",)
    return [Backend("reference", d) for d in devices] + (kernels(op) or [Backend(None, d) for d in devices])


def _param(b: Backend, *values):
    marks = [pytest.mark.gpu] if b.device == "cuda" else []
    tail = [str(v).removeprefix("torch.") for v in values]
    return pytest.param(b, *values, id="-".join([str(b), *tail]), marks=marks)


def pytest_generate_tests(metafunc):
    """`backend`: each backend of this machine; `kernel`: those with kernels of ours; with `dtype`, each it takes.

    A module or class names its operation as ``OP``; without one every backend is meant.
    """
    op = getattr(metafunc.cls, "OP", None) or getattr(metafunc.module, "OP", None)
    for name, choice in (("backend", all_backends), ("kernel", kernels)):
        if name not in metafunc.fixturenames:
            continue
        found = choice(op if op in house.OPS else None)
        if not found:
            skip = pytest.mark.skip(reason=f"no kernels of {op or 'any operation'}: nothing compiled, no GPU")
            metafunc.parametrize(name, [pytest.param(Backend("reference"), id="none", marks=skip)], indirect=True)
        elif "dtype" in metafunc.fixturenames:
            pairs = [_param(b, dtype) for b in found for dtype in b.dtypes(op)]
            metafunc.parametrize((name, "dtype"), pairs, indirect=[name])
        else:
            metafunc.parametrize(name, [_param(b) for b in found], indirect=True)


@contextlib.contextmanager
def _forced(b: Backend):
    reason = house.absent(b.name) if b.compiled else None
    if reason:
        pytest.fail(f"the {b.name} backend is expected on this machine and is not there: {reason}")
    with b.use(), as_on_a_gpu(b):
        yield b


@contextlib.contextmanager
def as_on_a_gpu(b: Backend):
    """Triton's interpreter cuts off what a GPU rounds, and NumPy warns where a GPU goes on with NaN."""
    if b.name != "triton" or not house.interpreting():
        yield
        return
    import numpy

    from tests.watch import rounding_bfloat16

    with rounding_bfloat16(), numpy.errstate(all="ignore"):
        yield


@pytest.fixture
def backend(request):
    """One backend, forced for the length of the test."""
    with _forced(request.param) as b:
        yield b


@pytest.fixture
def kernel(request):
    """As `backend`, without the reference."""
    with _forced(request.param) as b:
        yield b


@pytest.fixture(autouse=True)
def _same_every_time():
    """Seeds; TF32 off; ``empty`` gives NaN, also to C++. A test may switch modes: they are put back after it."""
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    threads, fill = torch.get_num_threads(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    with warnings.catch_warnings():
        # the mode is here for its NaN, not for bitwise repetition
        warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation.*")
        yield
    torch.use_deterministic_algorithms(before[0], warn_only=before[1])
    torch.utils.deterministic.fill_uninitialized_memory = fill
    torch.set_num_threads(threads)


def pytest_collection_modifyitems(config, items):
    # files with a slow test first: begun last, one would keep a process busy long after the others are done
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    asked = config.getoption("-m") or ""
    for item in items:
        if item.get_closest_marker("gpu") and not GPU:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
        if item.get_closest_marker("large") and "large" not in asked:
            item.add_marker(pytest.mark.skip(reason="needs tens of GB of memory: run with -m large"))
