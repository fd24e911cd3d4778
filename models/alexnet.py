"""AlexNet for 224x224 images, cut after its third convolution.

    cut `report`    encoder    conv 3->96 11x11/4, ReLU, response norm, max pool 3/2, conv 96->256 5x5, ReLU, response
                               norm, max pool 3/2, conv 256->384, ReLU                           -> [N, 384, 13, 13]
                    processor  conv 384->384, act, conv 384->256, act, max pool 3/2              -> [N, 256, 6, 6]
    cut `authors`   encoder    conv 3->64 11x11/4, ReLU, max pool 3/2, conv 64->192 5x5, ReLU, max pool 3/2,
                               conv 192->384, ReLU                                               -> [N, 384, 13, 13]
                    processor  conv 384->256, act, conv 256->256, act, max pool 3/2              -> [N, 256, 6, 6]
    decoder         dropout, linear 9216->4096, ReLU, dropout, 4096, ReLU, classes

The complex form has no bias in its processor. For CelebA's 40 attributes each logit is a binary cross-entropy's.
"""

from torch import nn

from models.choices import CUTS
from models.forms import assemble

FEATURES = (384, 13, 13)  # what crosses to the cloud, [C, h, w], for images of 224x224


def alexnet(form="complex", classes=40, cut="report", c="channel_mean", **options):
    """AlexNet in one of its forms, `[N, 3, 224, 224]` -> `[N, classes]`.

    Args:
        form: one of `models.choices.FORMS`.
        cut: `'report'`: 96, 256 and 384 channels with local response norm; `'authors'`: torchvision's 64, 192, 384.
        c: see `models.layers.complex_layers`; the paper's for networks without batch norm, the authors' is `'mean'`.
        options: generator, weights, gamma, detach_b, both as in `models.forms.assemble`.
    """
    if cut not in CUTS:
        raise ValueError(f"`cut` must be one of {', '.join(CUTS)}, got {cut!r}")
    decoder = nn.Sequential(
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(256 * 6 * 6, 4096),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(4096, 4096),
        nn.ReLU(),
        nn.Linear(4096, classes),
    )
    middle = 384 if cut == "report" else 256
    return assemble(
        form,
        encoder(*((96, 256, True) if cut == "report" else (64, 192, False))),
        FEATURES[0],
        lambda layers: processor(layers, middle),
        decoder,
        c=c,
        **options,
    )


def encoder(first, second, response_norm):
    """`[N, 3, 224, 224]` -> `[N, 384, 13, 13]`, a list of stages; two pixels of padding give the paper's 55x55 map."""
    stages = []
    for conv in (nn.Conv2d(3, first, 11, 4, 2), nn.Conv2d(first, second, 5, padding=2)):
        stages += [conv, nn.ReLU(), *([nn.LocalResponseNorm(5, k=2.0)] if response_norm else []), nn.MaxPool2d(3, 2)]
    return [*stages, nn.Conv2d(second, FEATURES[0], 3, padding=1), nn.ReLU()]


def processor(layers, middle):
    """The cloud's part: `[N, 384, 13, 13]` or planar -> `[N, 256, 6, 6]` or planar."""
    conv, act, pool = (layers[role] for role in ("conv", "act", "pool"))
    return nn.Sequential(conv(384, middle, 3, padding=1), act(), conv(middle, 256, 3, padding=1), act(), pool(3, 2))
