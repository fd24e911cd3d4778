"""Complex convolution."""

from torch import Tensor
from torch.nn import functional as real

from .. import check
from .. import functional as F
from .weight import ComplexWeight, positive

PADDING_MODES = ("zeros", "replicate")


class ComplexConv2d(ComplexWeight):
    """`cvkernels.functional.conv2d` with its weight: a complex convolution without a bias.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups: as ``torch.nn.Conv2d``; ``padding``
            also ``'same'`` (stride 1) or ``'valid'``.
        bias: False; True is refused.
        padding_mode: ``'zeros'`` or ``'replicate'``; other constants than 0 would break the rotation law.
        weights: ``'complex'`` holds ``weight_re`` and ``weight_im``, ``'real'`` one ``weight`` that both parts see;
            each ``[out_channels, in_channels / groups, kH, kW]``.
        device, dtype: of the parameters; a real floating-point dtype.
    Shape:
        planar ``[N, 2, in_channels, H, W]`` or complex ``[N, in_channels, H, W]`` -> the same form, ``out_channels``.
    Raises:
        TypeError: a dtype that is not real floating point, sizes that are not ints.
        ValueError: ``bias=True``; an unknown name; channels that ``groups`` does not divide; sizes < 1.
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
        bias: bool = False,
        padding_mode: str = "zeros",
        weights: str = "complex",
        device=None,
        dtype=None,
    ):
        positive(groups, "groups")
        for name, value in (("in_channels", in_channels), ("out_channels", out_channels)):
            positive(value, name)
            if value % groups:
                raise ValueError(f"`{name}` must be a multiple of groups={groups}, got {value}")
        kernel = _sizes(kernel_size, "kernel_size")
        super().__init__((out_channels, in_channels // groups, *kernel), bias, weights, device, dtype)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size = kernel
        self.stride, self.dilation = _sizes(stride, "stride"), _sizes(dilation, "dilation")
        self.padding = self._padding(padding)
        if padding_mode not in PADDING_MODES:
            raise ValueError(f"`padding_mode` must be 'zeros' or 'replicate', got {padding_mode!r}")
        self.padding_mode = padding_mode

    def _padding(self, padding) -> str | tuple[int, int]:
        if not isinstance(padding, str):
            return _sizes(padding, "padding", 0)
        if padding not in ("same", "valid"):
            raise ValueError(f"`padding` must be an int, a pair, 'same' or 'valid', got {padding!r}")
        if padding == "same" and self.stride != (1, 1):
            raise ValueError(f"`padding`='same' needs stride 1, got stride {self.stride}; give the padding in numbers")
        return padding

    def _edges(self) -> list[int]:
        """Left, right, top, bottom, as pad takes them; 'same' puts the odd one right and below, as torch does."""
        edges: list[int] = []
        for axis in (1, 0):
            if isinstance(self.padding, str):
                total = self.dilation[axis] * (self.kernel_size[axis] - 1) if self.padding == "same" else 0
                edges += [total // 2, total - total // 2]
            else:
                edges += [self.padding[axis]] * 2
        return edges

    def forward(self, z: Tensor) -> Tensor:
        """Planar ``[N, 2, C, H, W]`` or complex ``[N, C, H, W]`` to the same form."""
        z, how = self.geometry(z)
        return F.conv2d(z, self.kernel(), *how)

    def geometry(self, z: Tensor) -> tuple[Tensor, tuple]:
        """``z``, its border repeated where that is asked for, and stride, padding, dilation, groups of the rest."""
        if self.padding_mode == "replicate" and any(self._edges()):
            check.feature(z, spatial=2)
            return replicated(z, self._edges()), (self.stride, 0, self.dilation, self.groups)
        return z, (self.stride, self.padding, self.dilation, self.groups)

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        for name, default in (("padding", (0, 0)), ("dilation", (1, 1)), ("groups", 1), ("padding_mode", "zeros")):
            if getattr(self, name) != default:
                text += f", {name}={getattr(self, name)!r}"
        return f"{text}, weights={self.weights!r}"


def _sizes(value, name: str, least: int = 1) -> tuple[int, int]:
    pair = check.pair(value, name)
    if min(pair) < least:
        raise ValueError(f"`{name}` must be >= {least}, got {pair}")
    return pair


def replicated(z: Tensor, edges: list[int]) -> Tensor:
    """A feature with its border repeated; both parts alike, so it turns with its input."""
    if z.is_complex():
        return real.pad(z, edges, mode="replicate")
    return real.pad(z.flatten(1, 2), edges, mode="replicate").unflatten(1, (2, -1))
