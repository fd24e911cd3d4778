"""Complex convolution, magnitude batch norm and magnitude ReLU as one module."""

import torch
from torch import Tensor, nn

from ..ops.conv2d.function import conv2d_norm_relu, conv2d_with_power
from .conv import ComplexConv2d
from .norm import MagnitudeBatchNormReLU2d


class ComplexConvBatchNormReLU2d(nn.Module):
    """A convolution, a magnitude batch norm, a residual where one is given, a magnitude ReLU.

    Two operations in training. In inference without gradients the norm is folded into the weight, once for each state
    of the parameters, and the ReLU follows in the pass that writes the convolution's result. With
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
        c = self.norm_act.c
        y = None if isinstance(c, str) or _watched(self.conv, self.norm_act) else self._own(z, residual, c)
        return self.norm_act(self.conv(z), residual) if y is None else y

    def _own(self, z: Tensor, residual: Tensor | None, c: float) -> Tensor | None:
        """By a convolution of our own, which has the norm's sums at hand in training and takes in the norm, the
        residual and the ReLU in inference; None where torch convolves, or the two stay apart.
        """
        norm = self.norm_act
        if norm.training and norm.process_group is None:
            z, how = self.conv.geometry(z)
            found = conv2d_with_power(z, self.conv.kernel(), *how)
            return None if found is None else norm(found[0], residual, found[1])
        if norm.training or norm.running_power is None or torch.is_grad_enabled():
            return None
        scale = (norm.running_power + norm.eps).rsqrt()
        scale = scale if norm.weight is None else scale * norm.weight.to(scale.dtype)
        z, how = self.conv.geometry(z)
        return conv2d_norm_relu(z, self.conv.kernel(), scale, residual, c, *how)


def _watched(*layers: nn.Module) -> bool:
    """Whether something is told of what goes in or out of one of these, and so must not be passed by."""
    return any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers)
