"""rotate_phase, and the launch that adds up partial sums."""

import torch

from cvkernels.ops.common import triton_kernels as common
from cvkernels.ops.rotate_phase import triton_kernels as k

from ..case import BOTH, Case, streaming

# a sample is one row; channels-last, its positions are rows
TILES = {
    "contiguous": {"ROWS": 1, "COLUMNS": 1024, "LAST": False, "PAIRS": False},
    "channels-last": {"ROWS": 16, "COLUMNS": 64, "LAST": False, "PAIRS": False},
    "interleaved": {"ROWS": 1, "COLUMNS": 1024, "LAST": False, "PAIRS": True},
}
_halves = {"contiguous": ("fp32", "fp16"), "interleaved": ("fp32",)}
_bf16 = BOTH | {"contiguous": ("fp32", "bf16"), "interleaved": ("fp32",)}
CASES = [
    *streaming(k.rotate_phase_forward_kernel, "", ("z", "out"), 1, 1, {"theta": "*fp32"}, layouts=_bf16, tiles=TILES),
    *streaming(
        k.rotate_phase_backward_kernel, "angle", ("grad", "out", "grad_z"), 2, 1,
        {"theta": "*fp64", "partial": "*fp32"}, layouts=_halves, tiles=TILES,
    ),
    *(
        Case(
            common.totals_kernel, "by channels, fp32" if last else "by angle, fp64",
            {"partial": "*fp32", "out": "*fp32" if last else "*fp64", "channels": "i32", "programs": "i32"}
            | dict.fromkeys(("ROWS", "COLUMNS", "LAST"), "constexpr"),
            {"ROWS": common.TILE // common.TOTALS, "COLUMNS": common.TOTALS, "LAST": last},
        )
        for last in (False, True)
    ),
]  # fmt: skip


def launch(size: tuple, dtype: torch.dtype) -> None:
    z, theta = torch.zeros(size, dtype=dtype), torch.zeros(size[0], dtype=torch.float64)
    y = k.rotate_phase_forward(z, theta)
    for out in (y, None):
        k.rotate_phase_backward(z, out, theta)
