"""magnitude_power: its kernels are the norms' and the rotations'."""

import torch

from cvkernels.ops.magnitude_power import triton_kernels as k

CASES: list = []


def launch(size: tuple, dtype: torch.dtype) -> None:
    k.magnitude_power_forward(torch.zeros(size, dtype=dtype))
