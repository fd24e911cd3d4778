"""pack_weights: its layers' pointers are a tuple that a launch binds, so launches stand for cases."""

import torch

from cvkernels.ops.pack_weights import triton_kernels as k

CASES: list = []
LAUNCHED = ("pack_weights_forward_kernel", "pack_weights_backward_kernel")


def launch(size: tuple, dtype: torch.dtype) -> None:
    weights = [torch.zeros(s, dtype=dtype) for s in ((3, 5, 3, 3), (7, 5), (16, 16, 3, 3))]
    for last in (False, True):
        out = k.pack_weights_forward(weights, weights, torch.float16, last)
        blocks = [out[: 4 * w.numel()].view(2 * w.shape[0], 2 * w.shape[1], *w.shape[2:]) for w in weights]
        k.pack_weights_backward(blocks, dtype, last)
