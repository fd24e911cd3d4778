"""Complex convolution, magnitude batch norm and magnitude ReLU as one module."""

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from ..ops.common.power import rstd_of
from ..ops.conv2d.function import conv2d_norm_relu, conv2d_with_power
from .conv import ComplexConv2d
from .norm import MagnitudeBatchNormReLU2d


class ComplexConvBatchNormReLU2d(nn.Module):
    """A convolution, a magnitude batch norm, a residual where one is given, a magnitude ReLU.

    Two operations in training. In inference without gradients the norm's scale, the residual and the ReLU are part of
    the pass that writes the convolution's result, on the CPU where its form is channels-last inside or Winograd's;
    elsewhere two operations. With real weights on a CPU what it returns in training may be dense in the order
    ``[N, 2, H, W, C]``, which the next such layer reads as it is and anything else takes. With
    ``use_backend("triton")`` the convolution itself sums the power in training, and is all there is in inference.

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
        conv, norm, c = self.conv, self.norm_act, self.norm_act.c
        if isinstance(c, str) or _watched(conv, norm):
            return norm(conv(z), residual)
        if norm.training and norm.process_group is None:
            z, how = conv.geometry(z)
            y, sums = conv2d_with_power(z, conv.kernel(), *how)
            return norm(y, residual, sums)
        if norm.training or norm.running_power is None or torch.is_grad_enabled():
            return norm(conv(z), residual)
        scale = rstd_of(norm.running_power, norm.eps)
        scale = scale if norm.weight is None else scale * norm.weight.to(scale.dtype)
        z, how = conv.geometry(z)
        y, done = conv2d_norm_relu(z, conv.kernel(), scale, residual, c, *how)
        return y if done else norm(y, residual)


def _watched(*layers: nn.Module) -> bool:
    """Whether something is told of what goes in or out of one of these, either way, and so must not be passed by."""
    for of in layers:
        if of._forward_hooks or of._forward_pre_hooks or of._backward_hooks or of._backward_pre_hooks:
            return True
    return bool(_has_any_global_hook())
