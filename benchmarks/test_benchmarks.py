"""The same callables under pytest-benchmark, side by side: `pytest benchmarks --benchmark-only`.

The table of `python -m benchmarks` takes the candidates in turns and is what a claim rests on; this one takes them one
after the other, and is for pytest-benchmark's own tools (saving, comparing, histograms).
"""

import importlib

import pytest
import torch

from . import candidates, rows
from .__main__ import DEFAULT_PASSES, OPS
from .inputs import named

pytest.importorskip("pytest_benchmark", reason="pytest-benchmark is not installed")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BESIDE = ("naive", "complex", "real")


def rooms():
    for op in OPS:
        module = importlib.import_module(f".bench_{op}", __package__)
        for name in module.NAMES:
            for shape in module.SHAPES[:2]:
                for candidate in ("ours", *BESIDE):
                    for which in passes(name):
                        label = f"{name}-{named(shape)}-{candidate}-{which}".replace(" ", "-")
                        yield pytest.param(module, name, shape, candidate, which, id=label)


def passes(name):
    return [which for which in DEFAULT_PASSES if (which == "step") == name.startswith("train ")]


@pytest.mark.parametrize(("module", "name", "shape", "candidate", "which"), list(rooms()))
def test_speed(module, name, shape, candidate, which, benchmark):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    (case,) = (case for case in module.cases(shape, DEVICE, torch.float32) if case.op == name)
    if candidate not in ("ours", "naive", *case.others):
        pytest.skip(f"{name} has nothing {candidate} beside it")
    chosen = case.candidates(BESIDE)[candidate]
    if chosen.compared:
        assert candidates.difference(case, chosen) is None, "a wrong kernel has no speed"
    call = candidates.step(chosen, which, candidates.gradient(case))

    def synchronised():
        call()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize(DEVICE)

    benchmark.group = f"{case.op} {case.shape} {which}"
    benchmark.extra_info.update(rows.facts(DEVICE), what=chosen.label())
    benchmark(synchronised)
