"""VGG-16 for 224x224 images, cut before its third pooling.

    encoder    3x3 convolutions 64, 64, pool, 128, 128, pool, 256, 256, 256, each with ReLU   -> [N, 256, 56, 56]
    processor  pool, 512, 512, 512, pool, 512, 512, 512, pool                                 -> [N, 512, 7, 7]
    decoder    linear 4096, ReLU, dropout, 4096, ReLU, dropout, classes

The complex form has no bias in its processor.
"""

from torch import nn

from models.forms import assemble
from models.layers import REAL

FEATURES = (256, 56, 56)  # what crosses to the cloud, [C, h, w], for images of 224x224
POOL = "pool"


def vgg16(form="complex", classes=200, c="channel_mean", **options):
    """VGG-16 in one of its forms, `[N, 3, 224, 224]` -> `[N, classes]`.

    Args:
        form: one of `models.choices.FORMS`.
        classes: 200 for CUB-200-2011, 40 for CelebA's attributes (logits for a binary cross-entropy each).
        c: see `models.layers.complex_layers`; the paper's for networks without batch norm. With c = 1 moduli below 1
            are squared by each of six layers, and at first no gradient is left.
        options: generator, weights, gamma, detach_b, both as in `models.forms.assemble`.
    """
    decoder = nn.Sequential(
        nn.Flatten(),
        nn.Linear(512 * 7 * 7, 4096),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(4096, 4096),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(4096, classes),
    )
    return assemble(
        form,
        convolutions(REAL, 3, (64, 64, POOL, 128, 128, POOL, 256, 256, 256)),
        FEATURES[0],
        lambda layers: nn.Sequential(*convolutions(layers, 256, (POOL, 512, 512, 512, POOL, 512, 512, 512, POOL))),
        decoder,
        c=c,
        **options,
    )


def convolutions(layers, channels, plan):
    """A list of stages: for each number of channels a 3x3 convolution and its activation, for each `POOL` a pool."""
    stages = []
    for step in plan:
        if step == POOL:
            stages.append(layers["pool"](2))
        else:
            stages += [layers["conv"](channels, step, 3, padding=1), layers["act"]()]
            channels = step
    return stages
