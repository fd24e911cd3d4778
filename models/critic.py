"""The WGAN's critic for LeNet's features: convolution, pool, linear, and no norm.

A norm over the batch would make one sample's score depend on the others, and the gradient penalty is per sample.
"""

from torch import nn


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
