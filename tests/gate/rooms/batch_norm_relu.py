"""batch_norm_relu, and with it the norm kernels that it shares with magnitude_batch_norm."""

import torch

from cvkernels.ops.batch_norm_relu import triton_kernels as room
from cvkernels.ops.common.norm import triton_kernels as k

from ..case import BF16, HALVES, ONE, streaming

_scalars = {"per_count": "fp32", "c": "fp32"}
_forward = _scalars | {"momentum": "fp32", "eps": "fp32", "rstd": "*fp32", "running": "*fp32", "weight": "*fp32"}
_sums = {"partial": "*fp32", "rstd": "*fp32", "weight": "*fp32", "grad_weight": "*fp32"}
# narrow: 8 loads of partial sums (an unrolled row of 16), then one each of weight, running power, batches, rstd
CASES = [
    *streaming(k.power_sums_kernel, "", ("z",), 1, 0, {"partial": "*fp32"}),
    *streaming(
        k.norm_forward_kernel, "all", ("z", "residual", "out"), 2, 11,
        _forward | {"partial": "*fp32", "batches": "*i64"}, layouts=BF16,
    ),
    *streaming(
        k.norm_forward_kernel, "inference", ("z", "out"), 1, 1, _forward,
        ("residual", "weight", "partial", "batches"), layouts=ONE,
    ),
    *streaming(
        k.norm_backward_sums_kernel, "residual", ("grad", "out", "residual"), 3, 1, _sums | _scalars, ("z",),
        layouts=HALVES,
    ),
    *streaming(
        k.norm_backward_sums_kernel, "weight", ("grad", "out", "z"), 3, 1, _sums | _scalars, ("residual",),
        layouts=ONE,
    ),
    *streaming(
        k.norm_backward_kernel, "residual", ("grad", "out", "residual", "grad_z", "grad_residual"), 3, 9,
        _sums | _scalars, ("z", "weight", "grad_weight"), {"BATCH": True}, HALVES, **k.BACKWARD,
    ),
    *streaming(
        k.norm_backward_kernel, "all", ("grad", "out", "z", "residual", "grad_z", "grad_residual"), 3, 10,
        _sums | _scalars, (), {"BATCH": True}, layouts=ONE, **k.BACKWARD,
    ),
    *streaming(
        k.norm_backward_kernel, "frozen", ("grad", "out", "grad_z"), 2, 1, _scalars | {"rstd": "*fp32"},
        ("z", "weight", "residual", "partial", "grad_residual", "grad_weight"), {"BATCH": False}, layouts=ONE,
        **k.BACKWARD,
    ),
]  # fmt: skip


def launch(size: tuple, dtype: torch.dtype) -> None:
    z, ones, count = torch.zeros(size, dtype=dtype), torch.ones(size[2]), torch.tensor(1)
    for weight in (None, ones):
        kept = None if weight is None else z
        for running, residual, training in ((ones, z, True), (None, None, False), (ones, None, False)):
            y, rstd = room.batch_norm_relu_forward(z, running, weight, residual, count, training, 0.1, 1e-5, 1.0)
            batch = training or running is None
            room.batch_norm_relu_backward(z, y, kept, weight, residual, rstd, batch, 1.0)
