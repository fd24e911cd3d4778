"""A whole training step: encoder, rotation, processor, reverse rotation, decoder, loss, backward, fused Adam; no WGAN.

Naive is the same network in plain PyTorch, its real layers torch's own; real is the original network without a key,
likewise. Ours keeps its encoder's weights channels-last on a CPU, as the engine does.
"""

import torch
from torch.nn.functional import cross_entropy

from models.lenet import lenet
from models.resnet import resnet

from . import networks, two_tensor
from .bench_block import autocast, naive_bfloat16
from .candidates import WHOLE, Candidate, Case
from .inputs import Inputs, kernel, named

NETWORKS = {
    "resnet20-alpha": lambda *form, **more: resnet(20, "alpha", *form, **more),
    "resnet56-alpha": lambda *form, **more: resnet(56, "alpha", *form, **more),
    "lenet": lenet,
}
NAMES = ("train resnet20-alpha complex", "train resnet20-alpha real", "train lenet complex", "train lenet real")
ON_A_GPU = ("train resnet56-alpha complex", "train resnet56-alpha real")
SHAPES = [(128, 3, 32, 32)]
QUICK_SHAPES = [(4, 3, 32, 32)]


def cases(shape, device, dtype):
    for name in NAMES + ON_A_GPU * (device.type == "cuda"):
        yield _case(shape, device, dtype, name)


def _case(shape, device, dtype, name: str):
    _, network, weights = name.split()
    inputs = Inputs(device, dtype)
    x, theta = inputs.real(*shape), inputs.angle(shape[0])
    labels, partner = torch.arange(shape[0], device=device) % 10, torch.arange(shape[0], device=device).roll(1)

    def built(*form, **more):
        torch.manual_seed(0)
        return NETWORKS[network](*form, **more).to(device, dtype).train()

    def candidate(model, forward, half=None, **more):
        loss = lambda: cross_entropy(forward().float() if half else forward(), labels)  # noqa: E731
        call = autocast(device, loss) if half else loss
        return Candidate(call, tuple(model.parameters()), dtype=half, trains=True, **more)

    def mine(half=None):
        model = built(weights=weights)
        if device.type == "cpu":
            model.encoder.to(memory_format=torch.channels_last)
        backend = kernel("rotate", torch.empty(0, device=device, dtype=dtype))
        return candidate(model, lambda: model(x, theta, partner), half, what=backend)

    def pairs(half=None):
        model = built(weights=weights)
        encoder, decoder = networks.unfused(model.encoder), networks.unfused(model.decoder)
        processor = networks.naive(model.processor)

        def forward():
            a = encoder(x)
            h = processor(*two_tensor.rotate(a, a[partner], theta))
            return decoder(two_tensor.unrotate(*h, theta))

        return candidate(model, forward, half)

    def floor():
        model = networks.unfused(built("original"))
        return candidate(model, lambda: model(x), what="the original network", compared=False)

    others = {"real": floor}
    if dtype == torch.float32:
        others |= {"ours bfloat16": lambda: mine(torch.bfloat16)}
        others |= naive_bfloat16(device, lambda: pairs(torch.bfloat16))
    return Case(name, named(shape), dtype, device, ours=mine(), naive=pairs(), others=others, jumps=True, deep=WHOLE)
