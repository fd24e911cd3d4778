"""pack_weights: its layers' pointers are a tuple that a launch binds, so a launch stands for each case."""

from functools import partial

import torch

from cvkernels.ops.pack_weights import triton_kernels as k

from ..case import Case

CONTIGUOUS = "contiguous"
LAYERS = ((16, 16, 3, 3),) * k.LAYERS  # as many as one launch takes
ODD = ((3, 5, 3, 3), (7, 5), (16, 16, 3, 3))


def call(dtype: torch.dtype, sizes: tuple, last: bool) -> None:
    """Both launchers, weights in ``dtype`` to blocks in float16 and back."""
    weights = [torch.empty(s, dtype=dtype) for s in sizes]
    out = k.pack_weights_forward(weights, weights, torch.float16, last)
    blocks = [out[: 4 * w.numel()].view(2 * w.shape[0], 2 * w.shape[1], *w.shape[2:]) for w in weights]
    k.pack_weights_backward(blocks, dtype, last)


CASES = [
    Case(
        kernel,
        f"{k.LAYERS} layers, {layout}",
        {},
        {},
        launch=partial(call, torch.float32, LAYERS, layout != CONTIGUOUS),
    )
    for kernel in (k.pack_weights_forward_kernel, k.pack_weights_backward_kernel)
    for layout in (CONTIGUOUS, "channels-last")
]


def launch(size: tuple, dtype: torch.dtype) -> None:
    for last in (False, True):
        call(dtype, ODD, last)
