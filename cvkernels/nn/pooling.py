"""Pooling: the element of largest modulus, or the mean."""

from torch import Tensor, nn

from .. import functional as F


class MagnitudeMaxPool2d(nn.Module):
    """`cvkernels.functional.magnitude_max_pool2d`: of each window the element of largest modulus, both its parts.

    Args:
        kernel_size, stride, padding, dilation, return_indices, ceil_mode: as ``torch.nn.MaxPool2d``.
    Shape:
        planar ``[N, 2, C, H, W]`` or complex ``[N, C, H, W]`` -> the same form with ``[oH, oW]``; with
        ``return_indices`` also ``[N, C, oH, oW]`` int64.
    """

    def __init__(self, kernel_size, stride=None, padding=0, dilation=1, return_indices=False, ceil_mode=False):
        super().__init__()
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.dilation = padding, dilation
        self.return_indices, self.ceil_mode = return_indices, ceil_mode

    def forward(self, z: Tensor):
        """Planar ``[N, 2, C, H, W]`` or complex ``[N, C, H, W]`` to the same form, or (that, indices)."""
        return F.magnitude_max_pool2d(
            z, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices
        )

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, dilation={self.dilation}, "
            f"ceil_mode={self.ceil_mode}"
        )


class ComplexAvgPool2d(nn.Module):
    """`cvkernels.functional.avg_pool2d`: the mean of each window.

    Args:
        kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override: as ``torch.nn.AvgPool2d``.
    Shape:
        planar ``[N, 2, C, H, W]`` or complex ``[N, C, H, W]`` -> the same form with ``[oH, oW]``.
    """

    def __init__(
        self, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
    ):
        super().__init__()
        self.kernel_size, self.stride = kernel_size, kernel_size if stride is None else stride
        self.padding, self.ceil_mode = padding, ceil_mode
        self.count_include_pad, self.divisor_override = count_include_pad, divisor_override

    def forward(self, z: Tensor) -> Tensor:
        """Planar ``[N, 2, C, H, W]`` or complex ``[N, C, H, W]`` to the same form."""
        return F.avg_pool2d(
            z,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class ComplexAdaptiveAvgPool2d(nn.Module):
    """`cvkernels.functional.adaptive_avg_pool2d`: means over windows that make the given output size.

    Args:
        output_size: an int or a pair; None keeps that side.
    Shape:
        planar ``[N, 2, C, H, W]`` or complex ``[N, C, H, W]`` -> the same form with ``output_size``.
    """

    def __init__(self, output_size):
        super().__init__()
        self.output_size = output_size

    def forward(self, z: Tensor) -> Tensor:
        """Planar ``[N, 2, C, H, W]`` or complex ``[N, C, H, W]`` to the same form."""
        return F.adaptive_avg_pool2d(z, self.output_size)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"
