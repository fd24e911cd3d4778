"""Which layers of a network break the rotation law P(e^{iθ}z) = e^{iθ}P(z), and what to put in their place."""

from dataclasses import dataclass

from torch import Tensor, nn

from .. import check
from . import law
from .norm import BatchNormReLU2d

RELU = "MagnitudeReLU()"
NORM = "MagnitudeBatchNorm{}d({}): E|z|² for the power, no mean subtracted, at most a real scale"
OFFSET = "a constant that is added does not turn with its input"
PER_PART = "acts on the real and the imaginary part apart"


@dataclass(frozen=True)
class Finding:
    """One fault: where it is, what it is, why the law fails there, and what to put in its place."""

    name: str
    layer: str
    reason: str
    replacement: str

    def __str__(self):
        return f"{self.name or 'the module itself'}: {self.layer}: {self.reason}; {self.replacement}"


class Findings(list):
    """The faults `validate` found, readable when printed; empty, hence false, where the law holds."""

    def __str__(self):
        if not self:
            return "no fault found"
        count = "1 fault" if len(self) == 1 else f"{len(self)} faults"
        return f"{count} against P(e^{{iθ}}z) = e^{{iθ}}P(z):\n" + "\n".join(f"  {fault}" for fault in self)

    __repr__ = __str__

    def raise_if_any(self) -> None:
        """ValueError that lists them all; nothing where there are none."""
        if self:
            raise ValueError(str(self))


def validate(module: nn.Module, example: Tensor | None = None) -> Findings:
    """List every layer of a network that breaks the rotation law, all at once, each with its replacement.

    Without an example the layers are read: biases, standard norms, activations, max pooling, dropout by parts. Give
    the part that sees rotated features (a processing module), not an encoder or decoder, which are real. With an
    example the network is also run, in training and in inference mode, once as it is and once with each sample turned
    by an angle of its own: this finds what a ``forward`` does in plain functions, and clears layers that only ever see
    moduli. Running statistics, modes, gradients and random generators are left as they were.

    Args:
        module: the network.
        example: a feature it takes, planar ``[N, 2, C, *]`` or complex ``[N, C, *]``, N >= 2: one angle for all would
            hide faults of batch statistics. The law is held to sqrt(eps) of its dtype.
    Returns:
        A list of `Finding`, empty where nothing was found; print it, or call ``.raise_if_any()``.
    Raises:
        TypeError, ValueError: ``module`` is no module, ``example`` no feature or fewer than two samples.

    >>> import torch, cvkernels.nn as cnn
    >>> print(cnn.validate(torch.nn.Sequential(cnn.ComplexConv2d(3, 8, 3), torch.nn.ReLU())))
    1 fault against P(e^{iθ}z) = e^{iθ}P(z):
      1: ReLU(): acts on the real and the imaginary part apart; use MagnitudeReLU()
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"`module` must be a torch.nn.Module, got {type(module).__name__}")
    if example is not None:
        check.feature(example, "example")
    planar = example is None or not example.is_complex()
    read = [Finding(name, _shown(layer), *why) for name, layer, why in _read(module, planar)]
    if example is None:
        return Findings(read)
    trial = law.run(module, example)
    kept = [fault for fault in read if fault.name not in trial.moduli_only]
    places = dict(module.named_modules())
    read_too = {fault.name for fault in kept}
    kept += [Finding(n, _shown(places[n]), *_unfit(places[n], planar)) for n in trial.unfit if n not in read_too]
    order = {name: i for i, name in enumerate(places)}
    kept.sort(key=lambda fault: order[fault.name])
    named = {fault.name for fault in kept}
    for name, reason in trial.broken.items():
        if name not in named:
            inner = any(places[name].children())
            where = "in what its forward does, not in its layers" if inner else "in a layer unknown here"
            kept.append(Finding(name, type(places[name]).__name__, reason, f"look {where}"))
    return Findings(kept)


def _read(module: nn.Module, planar: bool):
    """(name, layer, (reason, remedy)) of each faulty layer, outermost only; a shared layer under its first name."""
    faulty: list[str] = []
    for name, layer in module.named_modules():
        if any(name.startswith(f"{outer}.") or outer == "" for outer in faulty):
            continue
        found = fault_of(layer, planar)
        if found:
            faulty.append(name)
            yield name, layer, found


def fault_of(layer: nn.Module, planar: bool) -> tuple[str, str] | None:
    """(why it breaks the law, what to use) of torch's own layers and of the real one here, else None.

    Of an unknown layer nothing is said: a parameter called bias may act on moduli only. Running an example tells.
    """
    home = type(layer).__module__
    if isinstance(layer, (nn.Linear, nn.modules.conv._ConvNd)):
        if getattr(layer, "bias", None) is None:
            return None  # a real kernel sees both parts alike
        name = {nn.Conv2d: "ComplexConv2d", nn.Linear: "ComplexLinear"}.get(type(layer), "the layer with bias=False")
        return f"has a bias: {OFFSET}", f"use {name}" + ("" if "bias" in name else ", or bias=False")
    if isinstance(layer, nn.Bilinear):
        return "multiplies two features, whose angles add", "use ComplexLinear on one of them"
    if isinstance(layer, nn.MultiheadAttention):
        return (
            "multiplies features with each other and has biases",
            "no replacement here; keep it out of the rotated part",
        )
    if home == "torch.nn.modules.activation":
        return PER_PART, f"use {RELU}"
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        size = "1" if isinstance(layer, nn.BatchNorm1d) else "2"
        return "subtracts a mean and scales each part by itself", f"use {NORM.format(size, layer.num_features)}"
    if isinstance(layer, BatchNormReLU2d):
        return f"subtracts a mean and {PER_PART}", f"use MagnitudeBatchNormReLU2d({layer.num_features})"
    if isinstance(layer, nn.RMSNorm):
        return (PER_PART, f"use {NORM.format('2', 'C')}") if planar else None
    if home in ("torch.nn.modules.normalization", "torch.nn.modules.instancenorm"):
        return "subtracts a mean or scales each part by itself", f"use {NORM.format('2', 'C')}"
    if home == "torch.nn.modules.pooling" and "Avg" not in type(layer).__name__:
        return "chooses by the parts, not by the modulus", "use MagnitudeMaxPool2d"
    if home == "torch.nn.modules.dropout" and layer.p:
        whole = isinstance(layer, (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d))
        return "draws a mask for each part", f"use ComplexDropout{'2d' if whole else ''}({layer.p})"
    if isinstance(layer, (nn.RNNBase, nn.RNNCellBase)):
        return "acts on the parts apart and has gates", "no replacement here; keep it out of the rotated part"
    if isinstance(layer, nn.modules.padding._ConstantPadNd) and layer.value:
        return f"pads with {layer.value}: {OFFSET}", "pad with 0, or replicate"
    if isinstance(layer, nn.Flatten) and planar and layer.start_dim in (0, 1):
        return "joins the two parts of a planar feature", "use ComplexFlatten()"
    return None


def _unfit(layer: nn.Module, planar: bool) -> tuple[str, str]:
    """(what a real layer without other faults takes, what takes a feature)."""
    complex_form = {
        nn.Conv2d: "use ComplexConv2d(weights='real')",
        nn.Linear: "use ComplexLinear(weights='real')",
        nn.AvgPool2d: "use ComplexAvgPool2d",
        nn.AdaptiveAvgPool2d: "use ComplexAdaptiveAvgPool2d",
    }.get(type(layer), "no complex form here; give it the parts as samples, z.flatten(0, 1)")
    axes = {3: "[N, C, L]", 4: "[N, C, H, W]"}.get(law.MAPS.get(type(layer), 0), "real features")
    got = f"planar {axes.replace('N', 'N, 2')}" if planar else "complex features"
    return f"takes {axes}, and not {got}", complex_form


def _shown(layer: nn.Module) -> str:
    return f"{type(layer).__name__}({layer.extra_repr()})"
