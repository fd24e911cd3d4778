"""magnitude_batch_norm: the norm kernels without a ReLU."""

import torch

from cvkernels.ops.common.norm import triton_kernels as k
from cvkernels.ops.magnitude_batch_norm import triton_kernels as room

from ..case import ONE, streaming

_scalars = {"per_count": "fp32", "rstd": "*fp32", "partial": "*fp32"}
CASES = [
    *streaming(
        k.norm_forward_kernel, "no ReLU", ("z", "out"), 1, 9,
        _scalars | {"momentum": "fp32", "eps": "fp32", "running": "*fp32"},
        ("residual", "weight", "batches", "c"), layouts=ONE,
    ),
    *streaming(
        k.norm_backward_kernel, "no ReLU", ("grad", "z", "grad_z"), 2, 9, _scalars,
        ("out", "weight", "residual", "grad_residual", "grad_weight", "c"), {"BATCH": True}, layouts=ONE,
        **k.BACKWARD,
    ),
]  # fmt: skip


def launch(size: tuple, dtype: torch.dtype) -> None:
    z, ones = torch.zeros(size, dtype=dtype), torch.ones(size[2])
    for weight, training in ((None, True), (ones, False)):
        _, rstd = room.magnitude_batch_norm_forward(z, ones, weight, None, training, 0.1, 1e-5)
        room.magnitude_batch_norm_backward(z, z, weight, rstd, training)
