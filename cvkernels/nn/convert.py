"""A real network's layers replaced by complex ones that obey the rotation law."""

import copy
import warnings
from collections.abc import Callable

import torch
from torch import nn

from .activation import MagnitudeReLU, modulus
from .conv import PADDING_MODES, ComplexConv2d
from .dropout import ComplexDropout, ComplexDropout2d
from .flatten import ComplexFlatten
from .linear import ComplexLinear
from .norm import BatchNormReLU2d, MagnitudeBatchNorm1d, MagnitudeBatchNorm2d, MagnitudeBatchNormReLU2d
from .pooling import ComplexAdaptiveAvgPool2d, ComplexAvgPool2d, MagnitudeMaxPool2d
from .validate import Finding, fault_of
from .weight import WEIGHTS

# Small or negative values shrink, large ones pass. Sigmoid, tanh and softmax are something else and are refused.
RECTIFIERS = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.RReLU,
    nn.ELU,
    nn.CELU,
    nn.SELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
)


def convert(module: nn.Module, weights: str = "real", c: float | str = 1.0) -> nn.Module:
    r"""A copy of a network with the standard layers replaced by complex ones.

    Kernels are kept. With ``weights='complex'`` a kernel becomes ``weight_re`` and ``weight_im`` starts at zero, so at
    first both forms compute the same. Biases and offsets are dropped, and one warning lists them. Batch norm keeps its
    scale; its running power starts at running_var + running_mean², the power of what it was trained on. Rectifiers
    become `MagnitudeReLU`, the fused `BatchNormReLU2d` a `MagnitudeBatchNormReLU2d`. Shared layers and shared kernels
    stay shared. Containers, and layers unknown here that have no parameters of their own, are left alone: try the
    result with `validate` and an example, which also finds what a ``forward`` does in plain functions
    (``torch.flatten(x, 1)`` joins the parts of a planar feature).

    Args:
        module: the network, or the part of it that will see rotated features.
        weights: ``'real'`` or ``'complex'``.
        c: of every `MagnitudeReLU` that stands for a rectifier; see there.
    Returns:
        The copy, in the mode, dtype and on the device of ``module``, which is not changed.
    Raises:
        TypeError: ``module`` is no module.
        ValueError: ``weights`` or ``c`` unknown, or layers that cannot be converted; lists them all.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"`module` must be a torch.nn.Module, got {type(module).__name__}")
    if weights not in WEIGHTS:
        raise ValueError(f"`weights` must be 'complex' or 'real', got {weights!r}")
    modulus(c)
    refused = _refused(module)
    if refused:
        listed = "\n".join(f"  {fault}" for fault in refused)
        raise ValueError(f"`module` has {len(refused)} layer(s) that cannot be converted:\n{listed}")
    made = copy.deepcopy(module)
    dropped = [
        f"{name}.bias".lstrip(".")
        for name, layer in made.named_modules()
        if type(layer) in _MAKERS and isinstance(getattr(layer, "bias", None), torch.Tensor)
    ]
    made = _replaced(made, _Converter(weights, c), {})
    if dropped:
        warnings.warn(
            f"dropped, because an offset breaks the rotation law: {', '.join(dropped)}; "
            "train the result, or add offsets behind unrotate",
            UserWarning,
            stacklevel=2,
        )
    return made


def _refused(module: nn.Module) -> list[Finding]:
    found: list[Finding] = []
    whole: list[str] = []  # torch's own layers: their parts are not listed again
    for name, layer in module.named_modules():
        why = None if any(name.startswith(outer) for outer in whole) else _obstacle(layer)
        if why:
            found.append(Finding(name, type(layer).__name__, *why))
            if type(layer).__module__.startswith("torch."):
                whole.append(f"{name}." if name else "")
    return found


def _obstacle(layer: nn.Module) -> tuple[str, str] | None:
    """(reason, remedy) where a layer can neither be replaced nor be left alone."""
    kind = type(layer)
    if kind is nn.Conv2d and layer.padding_mode not in PADDING_MODES:
        return f"padding_mode {layer.padding_mode!r} has no complex form here", "use 'zeros' or 'replicate'"
    if kind in _MAKERS:
        hooked = layer._forward_hooks or layer._forward_pre_hooks
        return ("has forward hooks, which the new layer would lose", "remove them first") if hooked else None
    if kind.__module__.startswith("cvkernels."):
        return None
    if isinstance(layer, nn.modules.conv._ConvNd) and kind.__module__ == nn.Conv2d.__module__:
        return "has no complex form here", f"put {kind.__name__} without a bias on both parts, z.flatten(0, 1), by hand"
    fault = fault_of(layer, planar=True)
    if fault:
        return fault
    if isinstance(layer, (nn.Linear, nn.modules.conv._ConvNd)):
        return "its forward may differ from its base class's", "replace it by ComplexConv2d or ComplexLinear by hand"
    own = [name for name, _ in layer.named_parameters(recurse=False)]
    if own:
        return (
            f"has parameters of its own ({', '.join(own)}) and is unknown here",
            "convert it by hand, or its children alone",
        )
    return None


def _replaced(module: nn.Module, converter: "_Converter", done: dict) -> nn.Module:
    """``module`` or what stands for it; ``done`` keeps shared modules shared."""
    if module not in done:
        if type(module) in _MAKERS:
            made = _MAKERS[type(module)](converter, module)
            done[module] = made.train(module.training)
        else:
            done[module] = module
            for name, child in module._modules.items():
                if child is not None:
                    module._modules[name] = _replaced(child, converter, done)
    return done[module]


class _Converter:
    """Makes the complex layer for a standard one; remembers imaginary parts, so that tied kernels stay tied."""

    def __init__(self, weights: str, c):
        self.weights, self.c = weights, c
        self.imaginary: dict = {}

    def kernel(self, new, old) -> nn.Module:
        if self.weights == "real":
            new.weight = old.weight
        else:
            zero = self.imaginary.setdefault(
                old.weight, nn.Parameter(torch.zeros_like(old.weight), requires_grad=old.weight.requires_grad)
            )
            new.weight_re, new.weight_im = old.weight, zero
        return new

    def conv(self, old) -> nn.Module:
        new = ComplexConv2d(
            old.in_channels,
            old.out_channels,
            old.kernel_size,
            old.stride,
            old.padding,
            old.dilation,
            old.groups,
            padding_mode=old.padding_mode,
            weights=self.weights,
            device="meta",
        )
        return self.kernel(new, old)

    def linear(self, old) -> nn.Module:
        return self.kernel(ComplexLinear(old.in_features, old.out_features, weights=self.weights, device="meta"), old)

    def norm(self, old) -> nn.Module:
        settings = old.num_features, old.eps, old.momentum, old.affine, old.track_running_stats
        new: nn.Module
        if isinstance(old, BatchNormReLU2d):
            new = MagnitudeBatchNormReLU2d(settings[0], self.c, *settings[1:], process_group=old.process_group)
        else:
            new = (MagnitudeBatchNorm1d if type(old) is nn.BatchNorm1d else MagnitudeBatchNorm2d)(*settings)
        new.weight = old.weight
        if old.running_var is not None:
            wide = torch.promote_types(old.running_var.dtype, torch.float32)
            new.running_power = old.running_var.to(wide) + old.running_mean.to(wide).square()
            new.num_batches_tracked = old.num_batches_tracked
        return new

    def relu(self, old) -> nn.Module:
        return MagnitudeReLU(self.c)

    def max_pool(self, old) -> nn.Module:
        settings = (old.kernel_size, old.stride, old.padding, old.dilation, old.return_indices, old.ceil_mode)
        return MagnitudeMaxPool2d(*settings)

    def avg_pool(self, old) -> nn.Module:
        settings = (
            old.kernel_size,
            old.stride,
            old.padding,
            old.ceil_mode,
            old.count_include_pad,
            old.divisor_override,
        )
        return ComplexAvgPool2d(*settings)

    def adaptive_avg_pool(self, old) -> nn.Module:
        return ComplexAdaptiveAvgPool2d(old.output_size)

    def dropout(self, old) -> nn.Module:
        return (ComplexDropout2d if type(old) is nn.Dropout2d else ComplexDropout)(old.p)

    def flatten(self, old) -> nn.Module:
        return ComplexFlatten(old.start_dim, old.end_dim)


# exact types: what a subclass's forward does is not known
_MAKERS: dict[type, Callable] = {
    nn.Conv2d: _Converter.conv,
    nn.Linear: _Converter.linear,
    nn.BatchNorm1d: _Converter.norm,
    nn.BatchNorm2d: _Converter.norm,
    BatchNormReLU2d: _Converter.norm,
    **dict.fromkeys(RECTIFIERS, _Converter.relu),
    nn.MaxPool2d: _Converter.max_pool,
    nn.AvgPool2d: _Converter.avg_pool,
    nn.AdaptiveAvgPool2d: _Converter.adaptive_avg_pool,
    nn.Dropout: _Converter.dropout,
    nn.Dropout2d: _Converter.dropout,
    nn.Flatten: _Converter.flatten,
}
