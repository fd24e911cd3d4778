"""Installed peers (the extra ``peers``): for each role of ours the peer's layer, or the nearest one it has.

``exact``: the layer computes what ours does, so it is compared; else it gets a star and is timed alone. Peers whose
convolution is torch's own on a complex tensor (torchcvnn) have none here: that row is the complex dtype's.
"""

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from . import native
from .candidates import Candidate

NAMES = ("complextorch", "torchcvnn", "complexPyTorch", "cplxmodule")


@dataclass(frozen=True)
class Layer:
    """make: its arguments -> a callable on the peer's features."""

    what: str
    make: Callable
    exact: bool = True


@dataclass(frozen=True)
class Kit:
    """One peer. enter: a feature of ours -> (the leaf, a call that makes of it what the peer takes)."""

    name: str
    layers: dict[str, Layer]
    cplx: type | None = None  # the peer's own class of pairs; else it takes complex tensors
    alone: tuple[str, ...] = field(default=())  # roles that are not the peer's own, used inside a block only

    def enter(self, feature):
        if self.cplx is None:
            return feature.complex, lambda: feature.complex
        return feature.pair, lambda: self.cplx(*feature.pair)

    def leave(self, out):
        return out if isinstance(out, torch.Tensor) or self.cplx is None else (out.real, out.imag)


def absent() -> list[str]:
    return [name for name in NAMES if importlib.util.find_spec(name) is None]


@functools.cache
def kits() -> tuple[Kit, ...]:
    makers = {"complextorch": _complextorch, "torchcvnn": _torchcvnn, "complexPyTorch": _complexpytorch}
    makers["cplxmodule"] = _cplxmodule
    missing = absent()
    if missing:
        print(f"peers not installed, and left out: {', '.join(missing)} (pip install {' '.join(missing)})")
    return tuple(makers[name]() for name in NAMES if name not in missing)


def _complextorch() -> Kit:
    import complextorch.nn as peer

    def weighted(module, weights):
        with torch.no_grad():
            for own, given in zip(module[1], weights, strict=True):
                own.copy_(given)
        return module

    def conv(weights, padding):
        out, channels, *kernel = weights[0].shape
        layer = peer.gauss.Conv2d(channels, out, tuple(kernel), padding=padding, bias=False).to(weights[0])
        return weighted((layer, (layer.conv_r.weight, layer.conv_i.weight)), weights)

    def linear(weights):
        out, features = weights[0].shape
        layer = peer.gauss.Linear(features, out, bias=False).to(weights[0])
        return weighted((layer, (layer.linear_r.weight, layer.linear_i.weight)), weights)

    return Kit(
        "complextorch",
        {
            "rotate_phase": Layer("PhaseShift", lambda theta, like: peer.PhaseShift(like.shape[1]), exact=False),
            "conv": Layer("gauss.Conv2d", conv),
            "linear": Layer("gauss.Linear", linear),
            "norm": Layer("MagBatchNorm2d", peer.MagBatchNorm2d, exact=False),
            "act": Layer("modReLU", peer.modReLU, exact=False),
            "pool": Layer("MagMaxPool2d", peer.MagMaxPool2d),
            "avg_pool2d": Layer("AvgPool2d", peer.AvgPool2d),
            "adaptive_avg_pool2d": Layer("AdaptiveAvgPool2d", peer.AdaptiveAvgPool2d),
            "dropout": Layer("Dropout", peer.Dropout, exact=False),  # a mask for each part
            "dropout2d": Layer("Dropout2d", peer.Dropout2d, exact=False),
        },
    )


def _torchcvnn() -> Kit:
    import torchcvnn.nn as peer

    def conv(weights, padding):
        weight = torch.complex(*weights).detach().requires_grad_()
        return functools.partial(native.conv2d, weight=weight, padding=padding), (weight,)

    return Kit(
        "torchcvnn",
        {
            "conv": Layer("torch's conv2d", conv),
            "norm": Layer("BatchNorm2d", peer.BatchNorm2d, exact=False),
            "act": Layer("modReLU", peer.modReLU, exact=False),
            "pool": Layer("MaxPool2d", peer.MaxPool2d, exact=False),  # the indices of a plane, used on the batch
            "avg_pool2d": Layer("AvgPool2d", lambda size: peer.AvgPool2d(size, size)),  # it fails without a stride
            "adaptive_avg_pool2d": Layer("AdaptiveAvgPool2d", peer.AdaptiveAvgPool2d),
            "dropout": Layer("Dropout", peer.Dropout),
            "dropout2d": Layer("Dropout2d", peer.Dropout2d),
        },
        alone=("conv",),
    )


def _complexpytorch() -> Kit:
    from complexPyTorch import complexFunctions as functions
    from complexPyTorch import complexLayers as peer

    def weighted(layer, parts, weights):
        with torch.no_grad():
            for own, given in zip(parts, weights, strict=True):
                own.weight.copy_(given)
                if own.bias is not None:
                    own.bias.zero_()
        return layer, tuple(own.weight for own in parts)

    def conv(weights, padding):
        out, channels, *kernel = weights[0].shape
        layer = peer.ComplexConv2d(channels, out, tuple(kernel), padding=padding, bias=False).to(weights[0])
        return weighted(layer, (layer.conv_r, layer.conv_i), weights)

    def linear(weights):  # its bias cannot be left out
        out, features = weights[0].shape
        layer = peer.ComplexLinear(features, out).to(weights[0])
        return weighted(layer, (layer.fc_r, layer.fc_i), weights)

    return Kit(
        "complexPyTorch",
        {
            "conv": Layer("ComplexConv2d", conv),
            "linear": Layer("ComplexLinear", linear),
            "norm": Layer("NaiveComplexBatchNorm2d", peer.NaiveComplexBatchNorm2d, exact=False),
            "act": Layer("ComplexReLU", peer.ComplexReLU, exact=False),
            "pool": Layer("ComplexMaxPool2d", peer.ComplexMaxPool2d),
            # its module passes the pooling a dilation, which torch's has not
            "avg_pool2d": Layer("complex_avg_pool2d", lambda size: lambda z: functions.complex_avg_pool2d(z, size)),
            "dropout": Layer("ComplexDropout", peer.ComplexDropout, exact=False),  # rescaled twice
            "dropout2d": Layer("ComplexDropout2d", peer.ComplexDropout2d, exact=False),
        },
    )


def _cplxmodule() -> Kit:
    from cplxmodule import cplx
    from cplxmodule import nn as peer

    def turning(theta, like):
        angle = theta.view(-1, *(1,) * (like.ndim - 1))
        return lambda z: cplx.phaseshift(z, angle)

    def turning_back(theta):
        return lambda h: cplx.phaseshift(h, -theta.view(-1, *(1,) * (h.real.ndim - 1))).real

    def conv(weights, padding):
        own = tuple(w.detach().clone().requires_grad_() for w in weights)
        return lambda z: cplx.conv2d(z, cplx.Cplx(*own), None, 1, padding), own

    def linear(weights):
        own = tuple(w.detach().clone().requires_grad_() for w in weights)
        return lambda z: cplx.linear(z, cplx.Cplx(*own)), own

    return Kit(
        "cplxmodule",
        {
            "rotate_phase": Layer("cplx.phaseshift", turning),
            "unrotate": Layer("cplx.phaseshift", turning_back),
            "conv": Layer("cplx.conv2d", conv),
            "linear": Layer("cplx.linear", linear),
            "norm": Layer("CplxBatchNorm2d", peer.CplxBatchNorm2d, exact=False),
            "act": Layer("CplxModReLU", peer.CplxModReLU, exact=False),
            "pool": Layer("CplxMaxPool2d", peer.CplxMaxPool2d),
            "dropout": Layer("CplxDropout", peer.CplxDropout, exact=False),  # its own way through dropout2d
        },
        cplx=cplx.Cplx,
    )


def layers(role: str, feature, *arguments, **settings) -> dict[str, Candidate]:
    """One layer without weights, of each peer that has it."""
    found = {}
    for kit in kits():
        if role in kit.layers:
            layer = kit.layers[role]
            call = _on(layer.make(*arguments, **settings), feature)
            leaf, enter = kit.enter(feature)
            forward = lambda kit=kit, call=call, enter=enter: kit.leave(call(enter()))  # noqa: E731
            found[kit.name] = Candidate(forward, (leaf,), what=layer.what, compared=layer.exact)
    return found


def multiplied(role: str, feature, weights, **settings) -> dict[str, Candidate]:
    """A convolution or a matrix with complex weights."""
    found = {}
    for kit in kits():
        if role in kit.layers and role not in kit.alone:
            layer = kit.layers[role]
            call, own = layer.make(weights, **settings)
            leaf, enter = kit.enter(feature)
            forward = lambda kit=kit, call=call, enter=enter: kit.leave(call(enter()))  # noqa: E731
            found[kit.name] = Candidate(forward, (leaf, own), what=layer.what, compared=layer.exact)
    return found


def norm_act(feature, residual=None) -> dict[str, Candidate]:
    """The peer's norm, the residual, its activation: no peer has these two of ours."""
    found = {}
    for kit in kits():
        norm, act = (
            _on(kit.layers[role].make(*a), feature) for role, a in (("norm", (feature.channels,)), ("act", ()))
        )
        (leaf, enter), leaves, add = kit.enter(feature), (), lambda y: y
        if residual is not None:
            other, enter_other = kit.enter(residual)
            leaves, add = (other,), lambda y, enter_other=enter_other: y + enter_other()
        forward = lambda kit=kit, n=norm, a=act, e=enter, add=add: kit.leave(a(add(n(e()))))  # noqa: E731
        what = f"{kit.layers['norm'].what}, {kit.layers['act'].what}"
        found[kit.name] = Candidate(forward, (leaf, *leaves), what=what, compared=False)
    return found


def blocks(feature, first, second) -> dict[str, Candidate]:
    """A residual block of the peer's layers."""
    found = {}
    for kit in kits():
        roles, channels = kit.layers, feature.channels
        (conv1, own1), (conv2, own2) = (roles["conv"].make(w, padding=1) for w in (first, second))
        norm1, norm2 = (_on(roles["norm"].make(channels), feature) for _ in range(2))
        act = _on(roles["act"].make(), feature)
        leaf, enter = kit.enter(feature)

        def forward(kit=kit, layers=(conv1, norm1, act, conv2, norm2), enter=enter):
            conv1, norm1, act, conv2, norm2 = layers
            z = enter()
            return kit.leave(act(norm2(conv2(act(norm1(conv1(z))))) + z))

        what = ", ".join(roles[role].what for role in ("conv", "norm", "act"))
        found[kit.name] = Candidate(forward, (leaf, own1, own2), what=what, compared=False)
    return found


def _on(layer, feature):
    return layer.to(feature.planar.device) if isinstance(layer, nn.Module) else layer
