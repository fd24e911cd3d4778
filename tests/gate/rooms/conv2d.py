"""conv2d: the implicit matrix product at the networks' sizes, as its launchers bind it.

Its tiles come from a table by architecture, dtype and size, and its geometry is compiled in, so a case here calls a
launcher. Each product must use the tensor cores where Triton has them and the precision lets it, and read channels-last
features 16 bytes at a time.
"""

import contextlib
from functools import partial

import torch

from cvkernels.ops.conv2d import triton_kernels as k

from ..case import Case

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
NARROW, MIDDLE, DEEP, VGG = (128, 16, 32, 32), (128, 32, 16, 16), (128, 64, 8, 8), (32, 256, 56, 56)  # N, C, H, W
LAST = "channels-last"


@contextlib.contextmanager
def allowing(tf32: bool):
    """torch's switch, put back afterwards."""
    switch = torch.backends.cudnn.conv
    before, switch.fp32_precision = switch.fp32_precision, "tf32" if tf32 else "ieee"
    try:
        yield
    finally:
        switch.fp32_precision = before


def _empty(n, c, h, w, dtype, layout):
    if layout == LAST:
        return torch.empty(n, h, w, 2, c, dtype=dtype).permute(0, 3, 4, 1, 2)
    return torch.empty(n, 2, c, h, w, dtype=dtype)


def call(what, size, dtype, layout="contiguous", channels=0, kernel=3, stride=1, real=False, packed=False):
    """One launcher on empty features ``[N, 2, C, H, W]``; ``channels``: of the output, 0: as many as go in; ``packed``:
    the weight in torch's channels-last memory format."""
    n, c, h, w = size
    o = channels or c
    how = ((stride, stride), (kernel // 2, kernel // 2), (1, 1))
    weights = [torch.empty(o, c, kernel, kernel, dtype=DTYPES[dtype]) for _ in range(1 if real else 2)]
    if packed:
        weights = [a.contiguous(memory_format=torch.channels_last) for a in weights]
    weights += [None] * (2 - len(weights))
    z = _empty(*size, DTYPES[dtype], layout)
    y = k._fake_forward(z, *weights, *how)
    with allowing(dtype == "tf32"):
        if what == "data":
            k.conv2d_backward_data(y, *weights, (h, w), *how)
        elif what == "weight":
            k.conv2d_backward_weight(y, z, (kernel, kernel), not real, *how)
        elif what == "norm_relu":
            k.conv2d_norm_relu_forward(z, *weights, torch.empty(o), y, *how, 1.0)
        else:
            getattr(k, f"conv2d{'_power' if what == 'power' else ''}_forward")(z, *weights, *how)


def case(what, size, dtype, layout="contiguous", read=None, **settings):
    """The kernel that computes ``what``, or ``read``."""
    kernel = read or (k.conv2d_backward_weight_kernel if what == "weight" else k.conv2d_kernel)
    extra = "".join(f" {name}={value}" for name, value in settings.items())
    form = f"{what} {'x'.join(map(str, size))}{extra}, {layout}, {dtype}"
    # on sm_90 a product in TF32 wants the inner axis fastest, which for the weight's gradient features are not
    wide = 1 if layout == LAST and not read and (what, dtype) != ("weight", "tf32") else 0
    launched = partial(call, what, size, dtype, layout, **settings)
    return Case(kernel, form, {}, {}, wide=wide, tensor_cores=not read and dtype != "fp32", launch=launched)


CASES = [
    *(
        case(what, size, dtype, layout)
        for what in ("forward", "weight")
        for dtype in DTYPES
        for size in (NARROW, DEEP)
        for layout in ("contiguous", LAST)
        if dtype != "bf16" or layout == LAST and size == DEEP  # compiles as fp16 does
    ),
    *(case("data", DEEP, dtype, LAST) for dtype in ("fp32", "tf32", "fp16")),
    case("data", NARROW, "fp32"),
    case("data", NARROW, "tf32", channels=32, stride=2),
    case("data", NARROW, "fp16", LAST, channels=32, stride=2, kernel=1),
    *(case(what, NARROW, "fp16", LAST, channels=32, stride=2) for what in ("forward", "weight")),
    *(case(what, (128, 3, 32, 32), "fp32", channels=6, kernel=5) for what in ("forward", "weight")),
    case("forward", (128, 3, 32, 32), "fp16", channels=6, kernel=5),
    *(case(what, VGG, "fp16", LAST) for what in ("forward", "data", "weight")),
    *(case(what, VGG, "tf32") for what in ("forward", "data", "weight")),
    *(case(what, MIDDLE, "fp16", real=True) for what in ("forward", "data", "weight")),
    case("power", NARROW, "fp16", LAST),
    case("power", MIDDLE, "fp32"),
    case("power", NARROW, "fp32", read=k.conv2d_sum_kernel),
    case("weight", DEEP, "fp32", read=k.conv2d_sum_kernel),
    case("norm_relu", DEEP, "bf16", LAST),
    *(case(what, DEEP, "fp16", LAST, packed=True) for what in ("forward", "data")),
    case("forward", DEEP, "tf32", LAST, packed=True),
    case("norm_relu", NARROW, "tf32"),
    case("norm_relu", MIDDLE, "fp32"),
]


def launch(size: tuple, dtype: torch.dtype) -> None:
    if len(size) == 5:
        name = {torch.float32: "fp32", torch.float16: "fp16"}[dtype]
        for what in ("power", "norm_relu", "data", "weight"):
            call(what, (size[0], *size[2:]), name, channels=5)
            call(what, (size[0], *size[2:]), name, LAST, kernel=1, stride=2, real=True)
