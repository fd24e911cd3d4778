"""The WGAN's critics, and with other outputs the body of the adversary's angle predictor.

A norm over the batch makes one sample's score depend on the others, and the gradient penalty is per sample: only the
authors' critic has norms, which goes with their clipping.
"""

from torch import nn

from models.forms import WIDE, WideTrunk


def critic(features, kind="residual", outputs=1):
    """Real features `[N, C, s, s]` -> `[N, outputs]`, unbounded.

    Args:
        features: [C, s, s].
        kind: `'lenet'`, `'residual'`, or the authors' `'wide'`.
    """
    kinds = {"lenet": LeNetCritic, "residual": ResidualCritic, "wide": WideCritic}
    if kind not in kinds:
        raise ValueError(f"`kind` must be one of {', '.join(kinds)}, got {kind!r}")
    return kinds[kind](*features[:2], outputs)


class LeNetCritic(nn.Module):
    """Real features `[N, C, s, s]` -> `[N, outputs]`, unbounded.

    paper silent: 32 channels and 5x5 as the seed report's code; leaky ReLU .2 in place of its tanh, which saturates
    under the gradient penalty.

    Args:
        in_channels, side: C and s of the features.
        outputs: 1 for a critic; the adversary's angle predictor has the same body and other outputs.
    """

    def __init__(self, in_channels=6, side=14, outputs=1):
        super().__init__()
        pooled = (side - 4) // 2
        if pooled < 1:
            raise ValueError(
                f"`side` must be at least 6, got {side}; the critic's 5x5 window and its pool need that much"
            )
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, 32, 5),
            nn.LeakyReLU(0.2),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * pooled**2, outputs),
        )

    def forward(self, a):
        return self.body(a)


class ResidualCritic(nn.Module):
    """Real features `[N, C, s, s]` -> `[N, outputs]`: convolution, pool, residual block, convolution, mean, linear, as
    the seed report's critic for ResNets (a single linear layer was not enough there).

    Args:
        in_channels, side: C and s of the features; s >= 12.
        outputs: as in `LeNetCritic`.
    """

    def __init__(self, in_channels=16, side=32, outputs=1):
        super().__init__()
        if side < 12:
            raise ValueError(f"`side` must be at least 12, got {side}; the critic's windows and pool need that much")
        self.enter = nn.Sequential(nn.Conv2d(in_channels, 32, 3), nn.LeakyReLU(0.2), nn.MaxPool2d(2))
        self.block = nn.Sequential(
            nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(64, 64, 3, padding=1)
        )
        self.shortcut = nn.Conv2d(32, 64, 1, stride=2)
        self.act = nn.LeakyReLU(0.2)
        self.leave = nn.Sequential(nn.Conv2d(64, 128, 3), nn.LeakyReLU(0.2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.score = nn.Linear(128, outputs)

    def forward(self, a):
        x = self.enter(a)
        return self.score(self.leave(self.act(self.block(x) + self.shortcut(x))))


class WideCritic(WideTrunk):
    """The authors' critic, real features `[N, C, s, s]` -> `[N, outputs]`: `WideTrunk`, one channel, two linear layers.

    Args:
        in_channels, side, outputs: as in `LeNetCritic`.
    """

    def __init__(self, in_channels=32, side=16, outputs=1):
        super().__init__(in_channels)
        self.narrow = nn.Sequential(nn.Conv2d(WIDE, 1, 1), nn.BatchNorm2d(1), nn.ReLU(), nn.Flatten())
        self.score = nn.Sequential(nn.Linear(side**2, 256), nn.ReLU(), nn.Linear(256, outputs))

    def forward(self, a):
        return self.score(self.narrow(super().forward(a)))
