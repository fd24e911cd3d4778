"""What a layer with a kernel has in common: how its weight is held, drawn and checked."""

import torch
from torch import Tensor, nn

from .. import check
from . import init

WEIGHTS = ("complex", "real")


class ComplexWeight(nn.Module):
    """Base of the layers with a kernel: ``weight_re`` and ``weight_im``, or one ``weight`` for both parts."""

    weight: Tensor
    weight_re: Tensor
    weight_im: Tensor

    def __init__(self, shape: tuple[int, ...], bias: bool, weights: str, device, dtype):
        super().__init__()
        refuse_bias(bias)
        if weights not in WEIGHTS:
            raise ValueError(f"`weights` must be 'complex' or 'real', got {weights!r}")
        real_dtype(dtype)
        self.weights = weights
        for name in ("weight_re", "weight_im") if weights == "complex" else ("weight",):
            self.register_parameter(name, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weight anew: see `cvkernels.nn.init.default_`."""
        init.default_(self.kernel())

    def kernel(self) -> Tensor | tuple[Tensor, Tensor]:
        """The weight as the functions take it: the pair (real, imaginary), or the one real tensor."""
        return (self.weight_re, self.weight_im) if self.weights == "complex" else self.weight


def refuse_bias(bias) -> None:
    """ValueError for a bias, with the reason and what to do instead."""
    if bias is not False and bias is not None:
        raise ValueError(
            f"`bias` must be False, got {bias!r}: a constant does not turn with its input, so the rotation law "
            "P(e^{iθ}z) = e^{iθ}P(z) would fail; leave it out here, "
            "and add an offset, if one is needed, after unrotate, in the real decoder"
        )


def real_dtype(dtype) -> None:
    """TypeError for a parameter dtype that is not real floating point; None is torch's default."""
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(
            f"`dtype` must be a real floating-point dtype, got {dtype}; "
            "parameters are real, and a complex weight is two of them"
        )


def positive(value, name: str) -> int:
    """``value``, an int >= 1, or the error that names it."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"`{name}` must be an int, got {check.shown(value)}")
    if value < 1:
        raise ValueError(f"`{name}` must be >= 1, got {value}")
    return value
