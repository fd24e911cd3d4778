"""magnitude_relu."""

import torch

from cvkernels.ops.magnitude_relu import triton_kernels as k

from ..case import BOTH, LAYOUTS, ONE, streaming

_scalars = {"c": "fp32", "per_count": "fp32", "partial": "*fp32", "mean": "*fp32", "sample": "i32"}
_halves = {"contiguous": ("fp32", "fp16"), "interleaved": ("fp32",)}
# constant: everything is one block, its rows samples; a sample's channel: one row
_all = {"contiguous": {"ROWS": 1, "COLUMNS": 1024, "LAST": False, "PAIRS": False}}
_all["interleaved"] = _all["contiguous"] | {"PAIRS": True}
_plane = {"contiguous": _all["contiguous"], "channels-last": LAYOUTS["channels-last"]}
_sample = {"aligned": ("rows", "columns", "channels", "row", "channel", "part", "sample")}
CASES = [
    *streaming(
        k.magnitude_relu_forward_kernel, "constant", ("z", "out"), 1, 0, _scalars, ("partial", "mean"),
        layouts=_halves, tiles=_all,
    ),
    *streaming(
        k.magnitude_relu_backward_kernel, "constant", ("grad", "z", "grad_z"), 2, 0, _scalars, ("partial", "mean"),
        {"DETACH": False}, _halves, _all,
    ),
    *streaming(k.magnitude_relu_sums_kernel, "moduli", ("z",), 1, 0, _scalars, ("grad", "mean"), layouts=ONE),
    *streaming(k.magnitude_relu_sums_kernel, "back", ("grad", "z"), 2, 1, _scalars, layouts=ONE),
    *streaming(k.magnitude_relu_forward_kernel, "mean", ("z", "out"), 1, 8, _scalars, layouts=ONE),
    *streaming(
        k.magnitude_relu_backward_kernel, "mean", ("grad", "z", "grad_z"), 2, 9, _scalars, (), {"DETACH": False},
        layouts=ONE,
    ),
    *streaming(
        k.magnitude_relu_sample_forward_kernel, "", ("z", "out"), 2, 0, _scalars,
        layouts=BOTH, tiles=_plane, **_sample,
    ),
    *streaming(
        k.magnitude_relu_sample_backward_kernel, "", ("grad", "z", "grad_z"), 4, 1, _scalars, (), {"DETACH": False},
        BOTH, _plane, **_sample,
    ),
]  # fmt: skip


def launch(size: tuple, dtype: torch.dtype) -> None:
    z = torch.zeros(size, dtype=dtype)
    for reduce in range(4):
        _, mean = k.magnitude_relu_forward(z, 1.0, reduce)
        k.magnitude_relu_backward(z, z, mean, 1.0, reduce, reduce == 2)
