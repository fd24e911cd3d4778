"""A 3x3 convolution by Winograd's filtering on a CPU: 16 products for a tile of four results where a direct one takes
36, and Gauss's three of each for complex weights, so 12 for a complex result that took 36.

One kernel reads the feature and writes the result, in any layout; the gradient of the features is the same kernel with
the weight turned and transposed, that of the weights its own.
"""

import torch
from torch import Tensor

from ... import backend
from ...planar import is_channels_last, is_planes_last
from .planes import PLANES

OP = backend.op("conv_winograd", cpu=(torch.float32, torch.bfloat16))
RELU = backend.op("conv_winograd_relu", cpu=(torch.float32, torch.bfloat16))
LAYOUTS = (False, True, PLANES)  # of a result, in the kernel's numbers


def fits(z: Tensor, a: Tensor, how) -> bool:
    """Whether this convolution is one the kernel does: 3x3, stride 1, padding of at most 2, float32 or
    bfloat16 (computed in float32), on a CPU."""
    if z.device.type != "cpu" or z.dtype not in OP.cpu or a.shape[2:] != (3, 3) or how.groups != 1:
        return False
    dense = how.stride == (1, 1) and how.dilation == (1, 1) and max(how.padding) <= 2
    room = min(size + 2 * p for size, p in zip(z.shape[3:], how.padding, strict=True)) >= 3
    return dense and room and backend.choose(OP, z) == "cpu"


class Winograd:
    """The interface of `through_torch.Form`; what is channels-last inside is the kernel's affair."""

    ends = True

    def run(self, z: Tensor, a: Tensor, b: Tensor | None, how, inside: bool, outside: bool | str) -> Tensor:
        """The convolution of planar ``z``, in the layout ``outside``."""
        return _convolved(z, a, b, how.padding, False, outside)

    def run_relu(self, z, a, b, how, outside: bool, scale: Tensor, residual: Tensor | None, c: float) -> Tensor:
        """magnitude_relu(run(...) * scale + residual, c) in the same pass, ``residual`` in the layout of the result."""
        kernel = torch.ops.cvkernels.conv_winograd_relu_forward.default
        return kernel(_read(z), *_stored(a, b), how.padding, scale, residual, LAYOUTS.index(outside), c)

    def gradients(self, z, a, b, grad: Tensor, how, needs, inside: bool, outside: bool | str):
        """Of ``z`` (in the layout ``outside``), ``a`` and ``b``, None where ``needs`` has False."""
        of_z = of_a = of_b = None
        grad = _read(grad)
        if needs[0]:
            of_z = _convolved(grad, a, b, [2 - p for p in how.padding], True, outside)
        if needs[1] or needs[2]:
            kernel = torch.ops.cvkernels.conv_winograd_backward.default
            of_a, of_b = kernel(grad, _read(z), b is not None, how.padding)
            of_a = of_a.to(a.dtype) if needs[1] else None
            of_b = of_b.to(b.dtype) if needs[2] and b is not None else None
        return of_z, of_a, of_b


def _convolved(z, a, b, padding, back: bool, layout: bool | str) -> Tensor:
    kernel = torch.ops.cvkernels.conv_winograd_forward.default
    return kernel(_read(z), *_stored(a, b), padding, back, LAYOUTS.index(layout))


def _stored(a: Tensor, b: Tensor | None) -> tuple[Tensor, Tensor | None]:
    return a.float().contiguous(), None if b is None else b.float().contiguous()


def _read(z: Tensor) -> Tensor:
    return z if is_channels_last(z) or is_planes_last(z) else z.contiguous()


if backend.compiled:

    def _result(z, channels, padding, layout):
        n, _, _, h, w = z.shape
        h, w = h + 2 * padding[0] - 2, w + 2 * padding[1] - 2
        if layout == 0:
            return z.new_empty(n, 2, channels, h, w)
        if layout == 1:
            return z.new_empty(n, h, w, 2, channels).permute(0, 3, 4, 1, 2)
        return z.new_empty(n, 2, h, w, channels).movedim(-1, 2)

    @torch.library.register_fake("cvkernels::conv_winograd_forward")
    def _(z, re, im, padding, back, layout, lanes=0):
        return _result(z, re.shape[1 if back else 0], padding, layout)

    @torch.library.register_fake("cvkernels::conv_winograd_relu_forward")
    def _(z, re, im, padding, scale, residual, layout, c):
        return _result(z, re.shape[0], padding, layout)

    @torch.library.register_fake("cvkernels::conv_winograd_backward")
    def _(grad, z, complex, padding, lanes=0):  # noqa: A002
        re = z.new_empty(grad.shape[2], z.shape[2], 3, 3, dtype=torch.float32)
        return re, torch.empty_like(re) if complex else re.new_empty(0)
