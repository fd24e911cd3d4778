"""Every case of every room, found in the folder ``rooms``, and the kernels that none compiles."""

import importlib

from . import ROOT
from .case import Case

OPS = ROOT / "cvkernels" / "ops"


def rooms() -> dict:
    """Name to module: each has ``CASES`` and ``launch(size, dtype)``."""
    names = sorted(p.stem for p in (ROOT / "tests" / "gate" / "rooms").glob("*.py") if p.stem != "__init__")
    return {name: importlib.import_module(f"tests.gate.rooms.{name}") for name in names}


ROOMS = rooms()
CASES: list[Case] = [case for room in ROOMS.values() for case in room.CASES]


def kernels() -> set[str]:
    """Every kernel of the package."""
    found = set()
    for path in OPS.rglob("triton_kernels.py"):
        module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        found |= {name for name in vars(module) if name.endswith("_kernel")}
    return found


def missing() -> set[str]:
    """Kernels of the package that no case compiles."""
    return kernels() - {case.kernel.__name__ for case in CASES}
