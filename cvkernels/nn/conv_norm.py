"""Complex convolution, magnitude batch norm and magnitude ReLU as one module."""

from torch import Tensor, nn

from .conv import ComplexConv2d
from .norm import MagnitudeBatchNormReLU2d


class ComplexConvBatchNormReLU2d(nn.Module):
    """A convolution, a magnitude batch norm, a residual where one is given, a magnitude ReLU.

    Two operations in training. In inference without gradients the norm is folded into the weight, once for each state
    of the parameters, and the ReLU follows in the pass that writes the convolution's result.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, padding_mode, weights: as
            `ComplexConv2d`.
        c, eps, momentum, affine, track_running_stats, process_group: as `MagnitudeBatchNormReLU2d`.
        device, dtype: of the parameters; a real floating-point dtype.
    Attributes:
        conv: the `ComplexConv2d`.   norm_act: the `MagnitudeBatchNormReLU2d`.
    Shape:
        planar ``[N, 2, in_channels, H, W]`` or complex ``[N, in_channels, H, W]`` -> the same form, ``out_channels``;
        the residual shaped as the result.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size,
        stride=1,
        padding=0,
        dilation=1,
        groups: int = 1,
        padding_mode: str = "zeros",
        weights: str = "complex",
        c: float | str = 1.0,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = True,
        device=None,
        dtype=None,
        process_group=None,
    ):
        super().__init__()
        where = {"device": device, "dtype": dtype}
        self.conv = ComplexConv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            padding_mode=padding_mode,
            weights=weights,
            **where,
        )
        self.norm_act = MagnitudeBatchNormReLU2d(
            out_channels, c, eps, momentum, affine, track_running_stats, process_group=process_group, **where
        )

    def forward(self, z: Tensor, residual: Tensor | None = None) -> Tensor:
        """Features, and a residual shaped as the result or None, to features; in training updates the running power."""
        return self.norm_act(self.conv(z), residual)
