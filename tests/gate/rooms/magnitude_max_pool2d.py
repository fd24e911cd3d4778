"""magnitude_max_pool2d: loads of a window's columns are strided; channels-last they are wide."""

import torch

from cvkernels.ops.common.triton_kernels import TILE
from cvkernels.ops.magnitude_max_pool2d import triton_kernels as k

from ..case import streaming

TILES = {
    "contiguous": {"ROWS": 4, "COLUMNS": TILE // 8, "LAST": False},
    "channels-last": {"ROWS": 16, "COLUMNS": 64, "LAST": True},
}
_counts = (
    "places", "kernel_w", "H", "W", "stride_y", "stride_x", "pad_y", "pad_x", "dilation_y", "dilation_x", "planes",
    "positions", "width", "across", "covers", "cover_x", "kernel_h", "out_h", "out_w", "step",
)  # fmt: skip
_strides = ("sample", "channel", "part", "out_sample", "out_channel", "out_part", "index_sample", "index_channel",
            "index_step")  # fmt: skip
_others = {"index": "*u8"} | dict.fromkeys((*_counts, *_strides), "i32")
_aligned = ("channels", "sample", "channel", "part", "step", "out_sample", "out_channel", "out_part", "index_sample",
            "index_channel", "index_step")  # fmt: skip
_last = {"channel": 1, "out_channel": 1, "index_channel": 1}
_dense = {"step": 1, "index_step": 1}


def _cases(kernel, features, layout, at_once, loaded):
    ones = _last if layout == "channels-last" else _dense
    dtypes = ("fp32", "fp16") if layout == "channels-last" else ("fp32",)
    others = {name: kind for name, kind in _others.items() if name not in ones}
    return streaming(
        kernel, f"{at_once} at once", features, loaded, None, others, (), {"AT_ONCE": at_once} | ones,
        {layout: dtypes}, TILES, aligned=tuple(a for a in _aligned if a not in ones),
        **k.OPTIONS, maxnreg=k.REGISTERS[layout == "channels-last"],
    )  # fmt: skip


_forward, _backward = k.magnitude_max_pool2d_forward_kernel, k.magnitude_max_pool2d_backward_kernel
CASES = [
    *_cases(_forward, ("z", "out"), "contiguous", k.UNROLLED, 0),
    *_cases(_forward, ("z", "out"), "channels-last", k.UNROLLED, k.UNROLLED),
    *_cases(_backward, ("grad", "grad_z"), "contiguous", k.UNROLLED, 0),
    *_cases(_backward, ("grad", "grad_z"), "channels-last", 1, 0),
]


def launch(size: tuple, dtype: torch.dtype) -> None:
    if len(size) != 5:
        return
    z = torch.zeros(size, dtype=dtype)
    for window in (([1, 1], [1, 1], [0, 0], [1, 1]), ([2, 2], [2, 2], [1, 1], [1, 1])):
        y, index = k.magnitude_max_pool2d_forward(z, *window, False)
        k.magnitude_max_pool2d_backward(y, index, list(z.shape[3:]), *window)
