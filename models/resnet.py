"""ResNet-20/32/44/56/110 for 32x32 images: three stages of n blocks with 16, 32 and 64 channels, n = (depth - 2) / 6.

    cut `report`    encoder    convolution and stage 1 -> [N, 16, 32, 32]
                    processor  alpha: stage 2 and the first block of stage 3; beta: all but stage 3's last block
    cut `authors`   encoder    and the first block of stage 2 -> [N, 32, 16, 16]
                    processor  alpha: the rest of stage 2 and the first block of stage 3; beta: all but the last block
    decoder         the blocks left, mean over positions, linear

Where a block halves the map and doubles the channels its shortcut takes every second position and puts channels of
zeros on both sides (option A), which has no parameters and turns with its input.
"""

from torch import nn

from models.choices import CUTS, DEPTHS, VARIANTS
from models.forms import assemble
from models.layers import REAL
from models.layout import narrower_wider

FEATURES = {"report": (16, 32, 32), "authors": (32, 16, 16)}  # what crosses to the cloud, [C, h, w], of each cut


def resnet(depth=20, variant="alpha", form="complex", classes=10, cut="report", **options):
    """A CIFAR ResNet in one of its forms, `[N, 3, 32, 32]` -> `[N, classes]`.

    Args:
        depth: one of `DEPTHS`.
        variant: `'alpha'`: the processor ends with the first map of 8x8; `'beta'`: one block before the end.
        form: one of `models.choices.FORMS`.
        cut: where the encoder ends, one of `CUTS`.
        options: generator, weights, c, gamma, detach_b, both as in `models.forms.assemble`.
    """
    for name, value, known in (("depth", depth, DEPTHS), ("variant", variant, VARIANTS), ("cut", cut, CUTS)):
        if value not in known:
            raise ValueError(f"`{name}` must be one of {', '.join(map(str, known))}, got {value!r}")
    n = (depth - 2) // 6
    shapes = [(16, 16, 1)] * n + [(16, 32, 2)] + [(32, 32, 1)] * (n - 1) + [(32, 64, 2)] + [(64, 64, 1)] * (n - 1)
    enter = n if cut == "report" else n + 1  # blocks of the encoder
    leave = 2 * n + 1 if variant == "alpha" else 3 * n - 1  # the first block of the decoder

    def blocks(layers, some):
        return [Block(layers, *shape) for shape in some]

    encoder = [REAL["conv_norm_act"](3, 16, 3, padding=1), *blocks(REAL, shapes[:enter])]
    return assemble(
        form,
        encoder,
        FEATURES[cut][0],
        lambda layers: nn.Sequential(*blocks(layers, shapes[enter:leave])),
        nn.Sequential(*blocks(REAL, shapes[leave:]), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes)),
        **options,
    )


class Block(nn.Module):
    """Two 3x3 convolutions with norm and activation, the input added before the second activation.

    `[N, C_in, H, W]` or planar -> `[N, C_out, H/stride, W/stride]` or planar, in the vocabulary of `layers`.
    """

    def __init__(self, layers, in_channels, out_channels, stride=1):
        super().__init__()
        self.first = layers["conv_norm_act"](in_channels, out_channels, 3, stride=stride, padding=1)
        self.second = layers["conv_norm_act"](out_channels, out_channels, 3, padding=1)
        self.stride, self.added = stride, out_channels - in_channels

    def forward(self, x):
        return self.second(self.first(x), self.shortcut(x))

    def shortcut(self, x):
        """The input, or every second position of it between channels of zeros; the channel is third from last."""
        return x if self.stride == 1 else narrower_wider(x, self.stride, self.added)
