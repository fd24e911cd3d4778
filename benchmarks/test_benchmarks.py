"""The same callables under pytest-benchmark, fused and naive side by side: `pytest benchmarks --benchmark-only`.

The table of `python -m benchmarks` takes the candidates in turns and is what a claim rests on; this one takes them one
after the other, and is for pytest-benchmark's own tools (saving, comparing, histograms).
"""

import importlib

import pytest
import torch

from . import rows, timing
from .__main__ import OPS
from .inputs import named

pytest.importorskip("pytest_benchmark", reason="pytest-benchmark is not installed")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def rooms():
    for op in OPS:
        module = importlib.import_module(f".bench_{op}", __package__)
        for name in module.NAMES:
            for shape in module.SHAPES[:2]:
                yield pytest.param(module, name, shape, id=f"{name}-{named(shape)}".replace(" ", "-"))


@pytest.mark.parametrize("side", ["fused", "naive"])
@pytest.mark.parametrize("which", timing.PASSES)
@pytest.mark.parametrize(("module", "name", "shape"), list(rooms()))
def test_speed(module, name, shape, which, side, benchmark):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    (case,) = (case for case in module.cases(shape, DEVICE, torch.float32) if case.op == name)
    assert timing.difference(case) is None, "a wrong kernel has no speed"
    call = timing.steps(case, which)[side]

    def synchronised():
        call()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize(DEVICE)

    benchmark.group = f"{case.op} {case.shape} {which}"
    benchmark.extra_info.update(rows.facts(DEVICE), backend=case.backend)
    benchmark(synchronised)
