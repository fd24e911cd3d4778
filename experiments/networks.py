"""Which network a run's settings mean, with weights drawn for its seed."""

from types import SimpleNamespace

import torch
from torch import nn

from experiments.data.sets import side_of
from experiments.seeds import initialising
from experiments.settings import PIXELS, modulus
from models.alexnet import alexnet
from models.cost import multiply_adds
from models.critic import critic
from models.forms import WideGenerator
from models.lenet import lenet, wide_lenet
from models.resnet import resnet
from models.vgg import vgg16


def build(settings, data, seed):
    """The network, untrained."""
    options = {"form": settings.form, "classes": data.outputs, "generator": settings.generator}
    options |= {"weights": settings.weights, "c": modulus(settings), "gamma": settings.gamma}
    options |= {"detach_b": settings.detach_b, "both": settings.b == "both"}
    options |= {k: getattr(settings, k) for k in ("detach_modulus", "norm_power", "batch_statistics")}
    with initialising(seed, "network", settings.form):
        model = _network(settings, options)
        if settings.init == "normal":
            standard_normal(model)
    if settings.standardise and data.name in PIXELS:
        model.encoder.insert(0, Standardise(*PIXELS[data.name]))
    return model


def on_meta(settings, data):
    """The network on the meta device, where it has shapes only and takes no memory."""
    with torch.device("meta"):
        return build(settings, data, 0)


def check_fits(settings, name):
    """Before anything is read: that the network can be built so, and takes the pictures of the data set `name`.

    Raises:
        ValueError: what does not go together, in one line.
    """
    side = side_of(name, settings)
    model = on_meta(settings, SimpleNamespace(name=name, outputs=10))
    try:
        multiply_adds(model, (3, side, side))
    except (RuntimeError, ValueError):  # torch's words, or ours, for a layer deep inside
        raise ValueError(
            f"`data` must have pictures that {settings.network} takes, got {name} with {side}x{side} pixels; vgg16 and "
            "alexnet take 224x224 (celeba, cub or a folder), lenet 32x32, a ResNet any"
        ) from None


def _network(settings, options):
    if settings.network == "lenet":
        return (wide_lenet if settings.cut == "authors" else lenet)(**options)
    if settings.network == "vgg16":
        return vgg16(**options)
    if settings.network == "alexnet":
        return alexnet(cut=settings.cut, **options)
    kind, _, variant = settings.network.partition("-")
    return resnet(int(kind.removeprefix("resnet")), variant, cut=settings.cut, **options)


class Standardise(nn.Module):
    """What the networks read, -1..1 `[N, 3, H, W]` -> pixels less their channel's mean, by its deviation; both of
    pixels 0..1."""

    def __init__(self, mean, deviation):
        super().__init__()
        for name, values in (("mean", mean), ("deviation", deviation)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    def forward(self, x):
        return ((x + 1) / 2 - self.mean) / self.deviation


@torch.no_grad()
def standard_normal(model):
    """N(0, 1) for every kernel of convolutions and linear layers, but for the generator's, as the authors' code has."""
    generators = [m for m in model.modules() if isinstance(m, WideGenerator)]
    spared = {id(p) for m in generators for p in m.parameters()}
    for p in model.parameters():
        if p.ndim > 1 and id(p) not in spared:
            p.normal_()


def critic_kind(settings):
    """The report's critic's shape, which the adversary's angle predictor has too."""
    return "lenet" if settings.network == "lenet" and settings.cut == "report" else "residual"


def build_critic(settings, features, seed):
    """The WGAN's critic for features [C, s, s]."""
    with initialising(seed, "critic"):
        return critic(features, "wide" if settings.critic == "wide" else critic_kind(settings))
