"""The adversary's networks: one that guesses the key's angle, one that redraws the image."""

import torch
from torch import nn
from torch.nn.functional import interpolate

from models.critic import critic

TURN = 2 * torch.pi


class AnglePredictor(nn.Module):
    """What the cloud saw, planar `[N, 2, C, s, s]` -> the key's angle `[N]` in [0, 2π), by a network shaped like the
    critic.

    Args:
        loss: `'circular'`: two outputs, read as a point whose direction is the angle, so 0 and 2π are the same answer;
            `'raw'`: one output, sigmoid times 2π, to be trained with the unwrapped L1 of the seed report.
        kind: the critic's, see `models.critic.critic`.
    """

    def __init__(self, channels=6, side=14, loss="circular", kind="lenet"):
        super().__init__()
        if loss not in ("circular", "raw"):
            raise ValueError(f"`loss` must be 'circular' or 'raw', got {loss!r}")
        self.loss_kind = loss
        self.net = critic((2 * channels, side, side), kind, outputs=2 if loss == "circular" else 1)

    def forward(self, z):
        out = self.net(z.flatten(1, 2))  # [N, 2C, s, s], as a real network reads it
        if self.loss_kind == "raw":
            return out[:, 0].sigmoid() * TURN
        return torch.atan2(out[:, 1], out[:, 0]).remainder(TURN)

    def loss(self, z, theta):
        """Training loss, a scalar. Circular: squared distance of the point to (cos θ, sin θ); raw: mean |θ̂ - θ|,
        radians."""
        if self.loss_kind == "raw":
            return (self(z) - theta).abs().mean()
        out = self.net(z.flatten(1, 2))
        return (out - torch.stack((theta.cos(), theta.sin()), 1)).square().sum(1).mean()


def convolutions(in_channels, out_channels, count, shared=False):
    """`count` times 3x3 convolution, batch norm, ReLU, the first changing the number of channels; `shared`: all but the
    first and the last of them are one and the same."""
    stages = _convolution(in_channels, out_channels)
    if shared:
        stages.append(Repeated(_convolution(out_channels, out_channels), count - 2))
    for _ in range(1 if shared else count - 1):
        stages += _convolution(out_channels, out_channels)
    return nn.Sequential(*stages)


def _convolution(in_channels, out_channels):
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
    return [conv, nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]


class Repeated(nn.Module):
    """Stages one after another, several times over with the same weights."""

    def __init__(self, stages, times):
        super().__init__()
        self.inner, self.times = nn.Sequential(*stages), times

    def forward(self, x):
        for _ in range(self.times):
            x = self.inner(x)
        return x


class UNet(nn.Module):
    """Features `[N, C, h, w]` -> image `[N, 3, S, S]` in the units of its target, pixels 0..1; no output non-linearity.

    The features are first up-sampled bilinearly to the image. A stem of two convolutions; four times down (max pool,
    then six convolutions), four times up (bilinear, the skip beside it, six convolutions); a last 1x1. At width 64
    the widths are 64-128-256-512-512, the authors' published attacker.

    Args:
        in_channels: C; for both parts of planar features, 2C.
        width: channels of the stem; 64 is the authors' network, 8 trains on a laptop's processor.
        shared_kernels: the second to the fifth of each block's convolutions are one and the same, as in the seed
            report's code.
        image_side: S, a multiple of 16.
    """

    def __init__(self, in_channels, width=64, image_side=32, image_channels=3, shared_kernels=False):
        super().__init__()
        if image_side % 16:
            raise ValueError(f"`image_side` must be a multiple of 16, got {image_side}; the U-Net halves it four times")
        self.image_side = image_side
        w1, w2, w3, w4 = width, 2 * width, 4 * width, 8 * width
        self.stem = convolutions(in_channels, w1, 2)
        down, up = ((w1, w2), (w2, w3), (w3, w4), (w4, w4)), ((2 * w4, w3), (2 * w3, w2), (2 * w2, w1), (2 * w1, w1))
        self.down = nn.ModuleList([convolutions(*io, 6, shared_kernels) for io in down])
        self.up = nn.ModuleList([convolutions(*io, 6, shared_kernels) for io in up])
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Conv2d(w1, image_channels, 1)

    def forward(self, features):
        x = self.stem(_resize(features, self.image_side))
        skips = []
        for block in self.down:
            skips.append(x)
            x = block(self.pool(x))
        for block in self.up:
            skip = skips.pop()
            x = block(torch.cat((_resize(x, skip.shape[-1]), skip), 1))
        return self.head(x)


def _resize(x, side):
    return x if x.shape[-1] == side else interpolate(x, size=(side, side), mode="bilinear", align_corners=False)
