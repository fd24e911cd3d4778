"""LeNet for 32x32 images, cut after its first convolution: the classical one, and the authors' wider one.

    classical   encoder    conv 3->6 5x5, ReLU, average pool 2                                  -> [N, 6, 14, 14]
                processor  conv 6->16 5x5, act, max pool 2, linear 400->120, act, 120->84, act, 84->classes
    wide        encoder    conv 3->32 5x5, ReLU, max pool 3/2                                   -> [N, 32, 16, 16]
                processor  conv 32->64 5x5, act, average pool 3/2, conv 64->128 5x5, act, average pool 3/2,
                           conv 128->128 4x4, act, conv 128->classes 1x1, act
    decoder     the reading of the logits

The complex form has no bias in its processor, since a bias breaks the rotation law; the real forms are the network
untouched.
"""

import torch
from torch import nn

from models.forms import assemble
from models.layers import REAL

FEATURES = (6, 14, 14)  # what crosses to the cloud, [C, h, w], for images of 32x32
WIDE_FEATURES = (32, 16, 16)


def lenet(form="complex", classes=10, **options):
    """The classical LeNet in one of its forms, `[N, 3, 32, 32]` -> `[N, classes]`.

    Args:
        form: one of `models.choices.FORMS`.
        options: generator, weights, c, gamma, detach_b, both as in `models.forms.assemble`.
    """
    encoder = [nn.Conv2d(3, 6, 5), nn.ReLU(), nn.AvgPool2d(2)]
    return assemble(form, encoder, FEATURES[0], lambda layers: processor(layers, classes), nn.Identity(), **options)


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


def wide_lenet(form="complex", classes=10, **options):
    """The authors' LeNet in one of its forms, `[N, 3, 32, 32]` -> `[N, classes]`; arguments as `lenet`.

    Their c is `'mean'`, one number for the whole batch, and their generator `'wide'`.
    """
    # the last window of the 32 rows reaches over the edge, as in their code, which repeats the edge: 16, not 15
    encoder = [nn.Conv2d(3, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True)]
    return assemble(
        form, encoder, WIDE_FEATURES[0], lambda layers: wide_processor(layers, classes), nn.Flatten(), **options
    )


def wide_processor(layers, classes):
    """The cloud's part: `[N, 32, 16, 16]` or planar -> `[N, classes, 1, 1]` or planar."""
    conv, act, pool = (layers[role] for role in ("conv", "act", "avg_pool"))
    stages = []
    for in_channels, out_channels in ((32, 64), (64, 128)):
        stages += [conv(in_channels, out_channels, 5, padding=2), act(), RepeatEdge(), pool(3, 2)]
    stages += [conv(128, 128, 4), act(), conv(128, classes, 1)]
    if layers is not REAL:
        stages.append(act())  # the authors' too; on real logits it would cut the negative ones off
    return nn.Sequential(*stages)


class RepeatEdge(nn.Module):
    """The last row and the last column once more: `[..., H, W]` -> `[..., H+1, W+1]`, parts alike."""

    def forward(self, x):
        x = torch.cat((x, x[..., -1:, :]), -2)
        return torch.cat((x, x[..., -1:]), -1)
