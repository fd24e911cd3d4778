"""rotate."""

import torch

from cvkernels.ops.rotate import triton_kernels as k

from ..case import BOTH, ROUND, streaming
from .rotate_phase import TILES

_others = {"theta": "*fp32", "partial": "*fp32", "real_row": "i32", "real_sample": "i32"}
_aligned = (*ROUND, "real_row", "real_sample")
CASES = [
    *streaming(
        k.rotate_forward_kernel, "", ("a", "b", "out"), 1, 1, _others, layouts=BOTH, tiles=TILES, aligned=_aligned,
    ),
    *streaming(
        k.rotate_backward_kernel, "angle", ("grad", "out", "grad_a", "grad_b"), 2, 1, _others, layouts=BOTH,
        tiles=TILES, aligned=_aligned,
    ),
]  # fmt: skip


def launch(size: tuple, dtype: torch.dtype) -> None:
    a, theta = torch.zeros(size[0], *size[2:], dtype=dtype), torch.zeros(size[0])
    x = k.rotate_forward(a, a, theta)
    for out in (x, None):
        k.rotate_backward(x, out, theta)
