"""LeNet for 32x32 images, cut after its first convolution.

    encoder    conv 3->6 5x5, ReLU, average pool 2 (+ 3x3 convolution without bias or activation)   -> [N, 6, 14, 14]
    processor  conv 6->16 5x5, act, max pool 2, linear 400->120, act, 120->84, act, 84->classes
    decoder    the reading of the logits

The complex form has no bias in its processor, since a bias breaks the rotation law; the real forms are the network
untouched.
"""

from torch import nn

from models.layers import REAL, complex_layers
from models.split import OpenModel, SplitModel

FORMS = ("original", "layers", "complex")
FEATURES = (6, 14, 14)  # what crosses to the cloud, [C, h, w], for images of 32x32


def lenet(form="complex", classes=10, generator="relu", weights="complex", c=1.0, detach_b=False):
    """A LeNet in one of its forms.

    Args:
        form: `'original'` (real), `'layers'` (real, with the generator's extra convolution: the paper's "+layers"), or
            `'complex'`.
        generator: how the complex form's encoder ends: `'relu'`, or `'linear'` for the extra 3x3 convolution that
            the row `'layers'` beside it has; `'original'` never has it and `'layers'` always.
        weights, c: see `complex_layers`; the complex form only.
    """
    if form not in FORMS:
        raise ValueError(f"`form` must be one of {', '.join(FORMS)}, got {form!r}")
    if generator not in ("relu", "linear"):
        raise ValueError(f"`generator` must be 'relu' or 'linear', got {generator!r}")
    extra = form == "layers" or (form == "complex" and generator == "linear")
    if form == "complex":
        layers = complex_layers(weights, c)
        return SplitModel(encoder(extra), processor(layers, classes), nn.Identity(), detach_b)
    return OpenModel(encoder(extra), processor(REAL, classes), nn.Identity())


def encoder(extra_convolution=False):
    """`[N, 3, 32, 32]` -> `[N, 6, 14, 14]`, the device's part, always real."""
    stages = [nn.Conv2d(3, 6, 5), nn.ReLU(), nn.AvgPool2d(2)]
    if extra_convolution:
        stages.append(nn.Conv2d(6, 6, 3, padding=1, bias=False))
    return nn.Sequential(*stages)


def processor(layers, classes):
    """The cloud's part, in the vocabulary of `layers`: `[N, 6, 14, 14]` or planar -> `[N, classes]` or planar."""
    conv, act, pool, flatten, linear = (layers[role] for role in ("conv", "act", "pool", "flatten", "linear"))
    return nn.Sequential(
        conv(6, 16, 5),
        act(),
        pool(2),
        flatten(),  # [N, 400], or planar [N, 2, 400]
        linear(400, 120),
        act(),
        linear(120, 84),
        act(),
        linear(84, classes),
    )
