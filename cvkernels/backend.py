"""Which kernel runs: the one file that knows Triton, C++ and the reference, and chooses between them.

Backends: ``reference`` (plain PyTorch, everywhere), ``cpu`` and ``cuda`` (the compiled library), ``triton``.
"""

import contextlib
import functools
import importlib
import importlib.util
import os
import shutil
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import torch

BACKENDS = ("reference", "cpu", "triton", "cuda")
FLOATS = (torch.float32, torch.float64)
TRITON = (torch.float32, torch.float16, torch.bfloat16)  # what a Triton kernel of ours takes


def _load_library() -> str | None:
    """Load `cvkernels._C`; the reason where it cannot be, else None."""
    found = sorted(Path(__file__).parent.glob("_C*.so"))
    if not found:
        return "the package was installed without compiled kernels (no C++ compiler); see `python -m cvkernels`"
    try:
        torch.ops.load_library(found[0])
    except OSError as error:
        built = getattr(build_facts(), "torch", "?")
        return f"{found[0].name} was built for torch {built} and does not load in {torch.__version__}: {error}"
    return None


def build_facts():
    """The pybind11 module `cvkernels._build`, or None where nothing was compiled."""
    try:
        return importlib.import_module("cvkernels._build")
    except ImportError:
        return None


_NO_LIBRARY = _load_library()
compiled = _NO_LIBRARY is None


@functools.cache
def nodes():
    """`cvkernels._autograd`, or None: it fits the torch that it was built with and no other."""
    facts = build_facts()
    if not compiled or facts is None or facts.torch != torch.__version__:
        return None
    try:
        return importlib.import_module("cvkernels._autograd")
    except ImportError:
        return None


def interpreting() -> bool:
    """Triton runs kernels on the CPU, one program after another (set before triton is imported)."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def absent(backend: str) -> str | None:
    """Why a backend is not there on this machine; None where it is."""
    if backend in ("cpu", "cuda") and not compiled:
        return _NO_LIBRARY
    if backend == "cuda":
        facts = build_facts()
        if facts is None or not facts.cuda:
            return "the library was built for the CPU only; rebuild with CVKERNELS_CUDA=1"
        if not torch.cuda.is_available():
            return "no CUDA device"
    if backend == "triton":
        if importlib.util.find_spec("triton") is None:
            return "triton is not installed"
        if not interpreting() and not torch.cuda.is_available():
            return "no CUDA device (TRITON_INTERPRET=1 runs the kernels in Triton's interpreter)"
        if not interpreting():
            return launcher_lacks()
    return None


@functools.cache
def launcher_lacks() -> str | None:
    """What Triton has not got of what it compiles its launchers with, at the first call of a kernel; else None."""
    asked = os.environ.get("CC")
    if not any(map(shutil.which, (asked,) if asked else ("gcc", "clang"))):
        said = f"CC is {asked}, which is no program here" if asked else "there is none: apt install gcc, or set CC"
        return f"triton compiles its launchers with a C compiler, and {said}"
    if not headers():
        return "triton compiles its launchers with Python.h, which is not there: apt install python3-dev"
    return None


def headers() -> bool:
    """Python.h stands where Triton, or a compiler by its own variables, looks for it."""
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")  # Debian's own; as in Triton
    folders = [sysconfig.get_paths(scheme)["include"]]
    for variable in ("CPATH", "C_INCLUDE_PATH"):
        folders += os.environ.get(variable, "").split(os.pathsep)
    return any(Path(folder, "Python.h").is_file() for folder in folders if folder)


@dataclass(frozen=True)
class Op:
    """One operation's kernels: for each backend the dtypes it takes, empty where it never has one."""

    name: str
    cpu: tuple = ()
    cuda: tuple = ()
    triton: tuple = ()
    otherwise: str = "reference"  # what runs where none of them does: the reference, or "torch": its own operations

    def runs(self, chosen: str) -> str:
        """What is computed by where `choose` says ``chosen``: a backend, or "torch"."""
        plain = self.otherwise == "torch" or not (self.cpu or self.cuda or self.triton)
        return "torch" if chosen == "reference" and plain and _forced != "reference" else chosen

    def why_not(self, backend: str, device_type: str, dtype: torch.dtype) -> str | None:
        if dtype not in getattr(self, backend):
            return f"{self.name} has no {backend} kernel for {dtype}"
        here = {"cpu": ("cpu",), "cuda": ("cuda",), "triton": ("cuda", "cpu") if interpreting() else ("cuda",)}[backend]
        if device_type not in here:
            return f"the {backend} backend takes {' and '.join(here)} tensors, got one on {device_type}"
        return absent(backend)


OPS: dict[str, Op] = {}


@dataclass(frozen=True)
class Default:
    """Which backends are tried where none is forced, best first (none: torch's own), and why."""

    ops: tuple[str, ...]  # none: every operation without a row of its own
    where: str  # a device type, or one architecture of it: "sm_75"
    order: tuple[str, ...]
    why: str  # the measurement, or the reason that stands for it until there is one


# The most specific row holds: an operation named before one that is not, then an architecture before its device.
DEFAULTS = (
    Default((), "cpu", ("cpu",), "measured: 1.2 to 19 times as fast as two-tensor torch (the README's tables)"),
    Default((), "cuda", ("triton", "cuda"), "not measured: bound by bandwidth, where neither loses; needs no nvcc"),
    Default(("pack_weights", "magnitude_power"), "cuda", ("cuda", "triton"), "not measured: bound by the launch: C++"),
    Default(("conv2d", "linear"), "cuda", (), "not measured: cuDNN's and cuBLAS's products are tuned in every dtype"),
    Default(("conv2d", "linear"), "sm_75", (), "compiled: Triton gives this architecture no tensor cores"),
)
_CHOICES: dict[tuple, str] = {}
_forced: str | None = os.environ.get("CVKERNELS_BACKEND") or None


def op(name: str, **kernels) -> Op:
    """Declare an operation's kernels, once, in its room."""
    OPS[name] = Op(name, **kernels)
    return OPS[name]


def choose(op: Op, tensor: torch.Tensor) -> str:
    """The backend for an operation on a tensor like this one: the forced one, else the fastest present."""
    key = (op.name, tensor.device, tensor.dtype, _forced)
    found = None if torch.compiler.is_compiling() else _CHOICES.get(key)
    return found or _choose(*key)


# What a choice depends on does not change within a process, so a compiled graph may keep it, and so may a table: the
# look-up is on every call's path.
def _choose(name: str, device: torch.device, dtype: torch.dtype, forced: str | None) -> str:
    key = (name, device, dtype, forced)
    if key not in _CHOICES:
        _CHOICES[key] = _decide(OPS[name], device.type, device.index, dtype, forced)
    return _CHOICES[key]


# What torch.compiler.assume_constant_result sets. Called, it imports dynamo and with that triton, which was not asked
# for: `import cvkernels` takes 1.1 s then, and 0.1 s so (one core).
_choose._dynamo_marked_constant = True


def _decide(op: Op, device_type: str, index: int | None, dtype: torch.dtype, forced: str | None) -> str:
    if forced is not None:
        _present(forced)
        if forced == "reference" or not getattr(op, forced):
            return "reference"
        reason = op.why_not(forced, device_type, dtype)
        if reason:
            raise RuntimeError(f"backend {forced!r} was asked for, but {reason}; leave use_backend, or use 'reference'")
        return _loaded(op.name, forced)
    if device_type == "meta" and compiled and dtype in (*op.cpu, *op.cuda):
        return "cuda"  # nothing is computed there: the operators' fakes stand for what a GPU would be asked to do
    row = default(op.name, device_type, architecture(device_type, index))
    for backend in row.order if row else ():
        if op.why_not(backend, device_type, dtype) is None:
            return _loaded(op.name, backend)
    return "reference"


def architecture(device_type: str, index: int | None = None) -> str | None:
    """``sm_75`` and the like of a CUDA device that is there (the current one where no index is given), else None."""
    if device_type != "cuda" or not torch.cuda.is_available():
        return None
    return "sm_{}{}".format(*torch.cuda.get_device_capability(index))


def default(name: str, device_type: str, arch: str | None = None) -> Default | None:
    """The row of `DEFAULTS` for an operation on a device of this architecture; None where only torch's own runs."""
    rows = [r for r in DEFAULTS if (not r.ops or name in r.ops) and r.where in (device_type, arch)]
    return max(rows, key=lambda r: (bool(r.ops), r.where == arch), default=None)


def operators(backend: str):
    """The registered operators of a backend other than the reference."""
    return torch.ops.cvkernels_triton if backend == "triton" else torch.ops.cvkernels


def _loaded(name: str, backend: str) -> str:
    if backend == "triton":
        importlib.import_module(f"cvkernels.ops.{name}.triton_kernels")
    return backend


def _present(backend: str) -> None:
    if backend not in BACKENDS:
        raise RuntimeError(f"`backend` must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if absent(backend):
        each = "\n".join(f"  {name}: {absent(name) or 'present'}" for name in BACKENDS)
        raise RuntimeError(f"backend {backend!r} is not there on this machine:\n{each}")


@contextlib.contextmanager
def use_backend(backend: str):
    """Force one backend for every operation that has it, in the whole process, until the block ends.

    An operation that never has that backend uses plain torch. An operation that has it, but not for the dtype or the
    device it is given, raises. The forward's choice holds for its backward.

    Args:
        backend: ``"reference"``, ``"cpu"``, ``"triton"`` or ``"cuda"``; the environment variable CVKERNELS_BACKEND
            does the same for a whole run.
    Raises:
        RuntimeError: the backend is not there; lists each backend with the reason.
    """
    global _forced
    _present(backend)
    before, _forced = _forced, backend
    try:
        yield
    finally:
        _forced = before


def forced() -> str | None:
    """The backend `use_backend` or CVKERNELS_BACKEND asks for, or None."""
    return _forced
