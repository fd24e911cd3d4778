"""How a Triton kernel is held to its reference in the interpreter: not compiled, not run on a GPU, but watched."""

import torch

from cvkernels import use_backend
from tests.ops.harness import COMPLEX, PLANAR, compare, outputs
from tests.watch import Watch, rounding_bfloat16, watch

LAYOUTS = {name: (PLANAR | COMPLEX)[name] for name in ("contiguous", "channels-last", "complex")}  # the dense ones
SIZES = {  # [N, C, *], in tiles of 64 elements
    "one": (1, 1, 1, 1),
    "N=1": (1, 3, 5, 7),
    "1x1-map": (9, 6, 1, 1),
    "3d": (2, 3, 3, 4, 5),
    "rows-of-several-tiles": (2, 2, 9, 17),
    "blocks-of-channels": (3, 11, 3, 3),
    "multiple-of-16": (2, 16, 4, 8),
}
ODD = (3, 5, 4, 7)
HALVES = (torch.float16, torch.bfloat16)


def planar(size, dtype=torch.float32, scale=1.0):
    """Features [N, C, *]."""
    return (torch.randn(size[0], 2, *size[1:]) * scale).to(dtype)


def held(call, tensors: dict, features=("z",), layout="contiguous", fixed=(), grad_kind="op") -> Watch:
    """``call(**tensors)``: values and every gradient equal the reference's in float64, of features in a layout.

    Every address of every launch is watched, every output element written, no input written to (but those in
    ``fixed``, which equal the reference's afterwards).
    """
    with use_backend("triton"), watch() as seen, rounding_bfloat16():
        _, result = compare(call, tensors, features, LAYOUTS[layout], fixed, grad_kind=grad_kind)
    for out in outputs(result):
        out = out.detach()
        assert seen.unwritten(torch.view_as_real(out) if out.is_complex() else out) == 0
    assert seen.launches
    return seen
