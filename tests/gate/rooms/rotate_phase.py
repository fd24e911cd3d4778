"""rotate_phase, and the sums of angles that the rotations share."""

import torch

from cvkernels.ops.common.angle import triton_kernels as angle
from cvkernels.ops.rotate_phase import triton_kernels as k

from ..case import Case, streaming

# a sample is one row; channels-last, its positions are rows
TILES = {
    "contiguous": {"ROWS": 1, "COLUMNS": 1024, "LAST": False, "PAIRS": False},
    "channels-last": {"ROWS": 16, "COLUMNS": 64, "LAST": False, "PAIRS": False},
    "interleaved": {"ROWS": 1, "COLUMNS": 1024, "LAST": False, "PAIRS": True},
}
_halves = {"contiguous": ("fp32", "fp16"), "interleaved": ("fp32",)}
CASES = [
    *streaming(k.rotate_phase_forward_kernel, "", ("z", "out"), 1, 1, {"theta": "*fp32"}, tiles=TILES),
    *streaming(
        k.rotate_phase_backward_kernel, "angle", ("grad", "out", "grad_z"), 2, 1,
        {"theta": "*fp64", "partial": "*fp32"}, layouts=_halves, tiles=TILES,
    ),
    Case(
        angle.angle_sums_kernel, "fp64",
        {"partial": "*fp32", "out": "*fp64", "angles": "i32", "tiles": "i32", "COLUMNS": "constexpr"},
        {"COLUMNS": angle.ANGLES},
    ),
]  # fmt: skip


def launch(size: tuple, dtype: torch.dtype) -> None:
    z, theta = torch.zeros(size, dtype=dtype), torch.zeros(size[0], dtype=torch.float64)
    y = k.rotate_phase_forward(z, theta)
    for out in (y, None):
        k.rotate_phase_backward(z, out, theta)
