"""unrotate."""

import torch

from cvkernels.ops.unrotate import triton_kernels as k

from ..case import BOTH, ROUND, streaming
from .rotate_phase import TILES

_others = {"theta": "*fp32", "partial": "*fp32", "real_row": "i32", "real_sample": "i32", "K": "i32"}
_aligned = (*ROUND, "real_row", "real_sample")
CASES = [
    *streaming(
        k.unrotate_forward_kernel, "", ("h", "out"), 1, 1, _others,
        layouts=BOTH | {"interleaved": ("fp32",)}, tiles=TILES, aligned=_aligned,
    ),
    *streaming(
        k.unrotate_backward_kernel, "angle", ("grad", "h", "grad_h"), 1.5, 1, _others,
        layouts=BOTH, tiles=TILES, aligned=_aligned,
    ),
]  # fmt: skip


def launch(size: tuple, dtype: torch.dtype) -> None:
    h = torch.zeros(size, dtype=dtype)
    for theta in (torch.zeros(size[0]), torch.zeros(size[0], 3)):
        y = k.unrotate_forward(h, theta)
        for kept in (h, None):
            k.unrotate_backward(y, kept, theta)
