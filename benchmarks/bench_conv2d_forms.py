"""The ways of doing a complex convolution through torch, alone: four real ones, three (Gauss), one with the block
weight, one on a batch of 2N that is combined afterwards; each contiguous and channels-last. 3x3, complex weights.

``to z`` is differentiated by the features alone, ``to w`` by the weights: their backward passes are the data and the
weight gradient. On a GPU the kernels of each forward pass are named: a transpose between layouts shows there.
"""

import contextlib

import torch
from torch.nn import functional as real

from cvkernels import backend, use_backend
from cvkernels import functional as F

from . import timing, two_tensor
from .candidates import Candidate, Case, multiplying
from .inputs import LARGE, QUICK, STAGES, Inputs, named

NAMES = ("conv2d_forms to z", "conv2d_forms to w")
SHAPES = [*STAGES, LARGE]
QUICK_SHAPES = QUICK


def four(z, a, b):
    return two_tensor.conv2d(*z.unbind(1), a, b, padding=1)


def gauss(z, a, b):
    re, im = z.unbind(1)
    p, q = real.conv2d(re, a, padding=1), real.conv2d(im, b, padding=1)
    both = real.conv2d(re + im, a + b, padding=1)
    return p - q, both - p - q


def block(z, a, b):
    weight = torch.cat((torch.cat((a, -b), 1), torch.cat((b, a), 1)))
    return real.conv2d(z.flatten(1, 2), weight, padding=1).unflatten(1, (2, -1))


def batch(z, a, b):
    y = real.conv2d(z.flatten(0, 1), torch.cat((a, b)), padding=1).unflatten(0, (-1, 2)).unflatten(2, (2, -1))
    return y[:, 0, 0] - y[:, 1, 1], y[:, 0, 1] + y[:, 1, 0]


FORMS = {"four": four, "gauss": gauss, "block": block, "batch 2N": batch}


def cases(shape, device, dtype):
    for name in NAMES:
        yield _case(shape, device, dtype, name)


def _case(shape, device, dtype, name: str):
    inputs = Inputs(device, dtype)
    z = inputs.feature(shape)
    n, channels, height, width = shape
    a, b = (inputs.weight(channels, channels, 3, 3) for _ in range(2))

    def candidate(function, feature, where=None, weight=(a, b)):
        def forward():
            with use_backend(where) if where else contextlib.nullcontext():
                return function(feature, *weight)

        leaves = (feature,) if name.endswith("to z") else (weight,)
        what = timing.gpu_kernels(forward) if device.type == "cuda" else ""
        return Candidate(forward, leaves, what=what)

    def ours(feature, a, b):
        return F.conv2d(feature, (a, b), padding=1)

    others = {"ours channels-last": lambda: candidate(ours, z.channels_last)}
    for form, function in FORMS.items():
        others[f"form {form}"] = lambda f=function: candidate(f, z.planar)
        others[f"form {form} channels-last"] = lambda f=function: candidate(f, z.channels_last)
    if not backend.absent("triton") and not backend.interpreting() and dtype in backend.OPS["conv2d"].triton:
        others["ours triton"] = lambda: candidate(ours, z.planar, "triton")
        others["ours triton channels-last"] = lambda: candidate(ours, z.channels_last, "triton")
        last = tuple(w.detach().to(memory_format=torch.channels_last).requires_grad_() for w in (a, b))
        others["ours triton channels-last, weight too"] = lambda: candidate(ours, z.channels_last, "triton", last)
    return Case(
        name,
        named(shape),
        dtype,
        device,
        ours=candidate(ours, z.planar),
        naive=candidate(four, z.planar),
        others=others,
        cost=multiplying(9 * n * channels**2 * height * width, "complex", gradients=1),
    )
