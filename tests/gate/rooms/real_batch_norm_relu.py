"""real_batch_norm_relu."""

import torch

from cvkernels.ops.real_batch_norm_relu import triton_kernels as k

from ..case import BOTH, HALVES, ONE, streaming

_vectors = dict.fromkeys(
    ("weight", "bias", "running_mean", "running_var", "mean", "rstd", "partial", "grad_weight", "grad_bias"), "*fp32"
)
_scalars = dict.fromkeys(("per_count", "unbias", "momentum", "eps"), "fp32")
_given = _vectors | _scalars | {"batches": "*i64"}
# narrow: a pivot for each of a thread's channels; two or three rows of 16 partial sums, 8 loads each, then one each of
# the vectors
CASES = [
    *streaming(k.real_batch_norm_relu_moments_kernel, "", ("x",), 0.5, 4, _given, layouts=BOTH, **k.MOMENTS),
    *streaming(
        k.real_batch_norm_relu_forward_kernel, "all", ("x", "residual", "out"), 1, 31, _given, layouts=HALVES,
    ),
    *streaming(
        k.real_batch_norm_relu_forward_kernel, "inference", ("x", "out"), 0.5, 4, _given,
        ("residual", "partial", "batches"), layouts=ONE,
    ),
    *streaming(
        k.real_batch_norm_relu_backward_sums_kernel, "", ("grad", "out", "x"), 1.5, 2, _given, layouts=BOTH,
    ),
    *streaming(
        k.real_batch_norm_relu_backward_kernel, "all", ("grad", "out", "x", "grad_x", "grad_residual"), 1.5, 19,
        _given, (), {"BATCH": True}, layouts=HALVES,
    ),
]  # fmt: skip


def launch(size: tuple, dtype: torch.dtype) -> None:
    x, ones, count = torch.zeros(size[0], *size[2:], dtype=dtype), torch.ones(size[2]), torch.tensor(1)
    for weight, residual, training in ((ones, x, True), (None, None, True), (None, None, False)):
        y, mean, rstd = k.real_batch_norm_relu_forward(
            x, ones, ones, weight, weight, residual, count, training, 0.1, 1e-5
        )
        k.real_batch_norm_relu_backward(x, y, x, weight, mean, rstd, training, residual is not None)
