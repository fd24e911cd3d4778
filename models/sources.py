"""Where b comes from when it is no image of the batch: functions of a `[N, C, h, w]`, as `SplitModel` takes them for b.

`model(x, theta, equal_norm_noise)`; with draws that repeat, `model(x, theta, partial(equal_norm_noise, rng=rng))`.
"""

import torch


def equal_norm_noise(a, rng=None):
    """Gaussian noise `[N, C, h, w]` with the L2 norm of each sample of a; no gradient flows to a.

    Args:
        rng: generator on the CPU, drawn there and moved, so that devices agree; None: torch's own of a's device.
    """
    a = a.detach()
    if rng is None:
        noise = torch.randn_like(a)
    else:
        noise = torch.randn(a.shape, generator=rng, dtype=a.dtype).to(a.device)
    norm = torch.linalg.vector_norm(a, dim=tuple(range(1, a.ndim)), keepdim=True)
    return noise * (norm / torch.linalg.vector_norm(noise, dim=tuple(range(1, a.ndim)), keepdim=True))


class Bank:
    """Stored features, from which each sample gets one at random.

    Args:
        features: `[M, C, h, w]`, what the encoder gave for M other images, on the device of the features to hide.
    """

    def __init__(self, features):
        if features.ndim < 2 or not len(features):
            raise ValueError(f"`features` must be [M, C, h, w] with M >= 1, got {list(features.shape)}")
        self.features = features.detach()

    def __len__(self):
        return len(self.features)

    def __call__(self, a, rng=None):
        """One stored feature for each sample of a, `[N, C, h, w]`; `rng`: a generator on the CPU."""
        return self.features[torch.randint(len(self), (len(a),), generator=rng).to(self.features.device)]
