"""The walk of one image: encoder (device), rotation by the key, processor (cloud), reverse rotation, decoder
(device)."""

import torch
from torch import nn

import cvkernels.functional as F
from models.layout import taken

QUARTER = torch.pi / 2


class SplitModel(nn.Module):
    """A network in three stages, walked under a key.

    The key (b, theta, and swap where it is used) is an argument of the walk and never an attribute: whoever holds the
    weights does not hold a key.

    Args:
        encoder: `[N, 3, H, W]` image -> real features `[N, C, h, w]`.
        processor: planar `[N, 2, C, h, w]` -> planar; rotating its input must rotate its output.
        decoder: real features -> logits `[N, classes]`.
        detach_b: no gradient flows through the other image's features.
    """

    keyed = True

    def __init__(self, encoder, processor, decoder, detach_b=False):
        super().__init__()
        self.encoder = encoder
        self.processor = processor
        self.decoder = decoder
        self.detach_b = detach_b

    def encode(self, x):
        """Image `[N, 3, H, W]` -> features a `[N, C, h, w]`, real: what never leaves the device unrotated."""
        return self.encoder(x)

    def process(self, z):
        """What the cloud computes: planar features to planar features, under the law P(e^{iθ}z) = e^{iθ}P(z)."""
        return self.processor(z)

    def decode(self, y):
        """Real features -> logits `[N, classes]`; the softmax lives in the loss and in `predict`."""
        return self.decoder(y)

    def conceal(self, a, theta, b, swap=None):
        """Features a `[N, C, h, w]` and the key -> planar `[N, 2, C, h, w]`, all that an adversary ever sees."""
        b = self._other(a, b)
        b = b.detach() if self.detach_b else b
        if swap is not None:
            chosen = _switch(swap, a).view(-1, *(1,) * (a.ndim - 1))
            a, b = torch.where(chosen, b, a), torch.where(chosen, a, b)
        return F.rotate(a, b, theta)

    def reveal(self, h, theta, swap=None):
        """Back on the device: planar features and the key's angle -> logits `[N, classes]`, decode(Re(h·exp(-iθ)));
        where `swap`, of the other part: Im(h·exp(-iθ)) = Re(h·exp(-i(θ + π/2)))."""
        return self.decode(F.unrotate(h, theta if swap is None else theta + QUARTER * _switch(swap, h)))

    def forward(self, x, theta, b=None, swap=None):
        """Logits `[N, classes]` of x `[N, 3, H, W]` under the key theta `[N]` (radians), b and swap.

        Args:
            b: real features shaped like the encoder's output; an integer index `[N]` into the batch, so that the
                encoder runs once a step; or a function of a to such features (`models.sources`). Left out, each image
                is paired with the next of its batch.
            swap: booleans `[N]`: where true, b + ia crosses instead of a + ib, and the decoder knows.
        Raises:
            ValueError: a batch of one without `b`: it has no other image. TypeError: `swap` that is not boolean.
        """
        a = self.encode(x)  # [N, C, h, w] real
        z = self.conceal(a, theta, b, swap)  # [N, 2, C, h, w] planar: (a + ib)·exp(iθ)
        h = self.process(z)  # planar
        return self.reveal(h, theta, swap)

    def predict(self, x, *key):
        """Class `[N]` of the largest logit; the softmax would not change which one that is."""
        return self(x, *key).argmax(1)

    @staticmethod
    def _other(a, b):
        if callable(b) and not isinstance(b, torch.Tensor):
            b = b(a)
        if b is None:
            if len(a) == 1:
                raise ValueError(
                    "`b` must be given for a batch of one, which has no other image to hide behind; "
                    "pass the features [1, C, h, w] of another image, for example from a bank"
                )
            return a.roll(1, 0)
        if b.dtype.is_floating_point:
            if b.shape != a.shape:
                raise ValueError(
                    f"`b` must have the shape of the encoder's output {list(a.shape)}, got {list(b.shape)}; "
                    "pass encoded features, or an integer index [N] into the batch"
                )
            return b
        if b.dim() != 1 or len(b) != len(a):
            raise ValueError(
                f"`b` as an index must hold one integer per image, [{len(a)}], got {b.dtype} {list(b.shape)}; "
                "pass a permutation of the batch without fixed points"
            )
        return taken(a, b)


class PairModel(SplitModel):
    """Both parts are useful: of N images, N even, image n crosses with image n + N/2, and both are decoded.

    What crosses, the key's theta and swap have N/2 rows. The authors' walk; at use the device sends images in pairs.
    """

    def __init__(self, encoder, processor, decoder):
        super().__init__(encoder, processor, decoder)

    def forward(self, x, theta, swap=None):
        """Logits `[N, classes]` of x `[N, 3, H, W]` under the key theta `[N/2]` (radians) and swap `[N/2]`."""
        if len(x) % 2:
            raise ValueError(f"`x` must hold an even number of images, got {len(x)}; they cross in pairs")
        a, b = self.encode(x).chunk(2)
        return self.reveal(self.process(self.conceal(a, theta, b, swap)), theta, swap)

    def reveal(self, h, theta, swap=None):
        """Planar features `[N/2, 2, C, *]` and the key's angle -> logits `[N, classes]`: of the images that were a,
        then of those that were b."""
        swapped = torch.zeros_like(theta) if swap is None else _switch(swap, h).to(theta.dtype)
        parts = F.unrotate(h, theta[:, None] + QUARTER * torch.stack((swapped, 1 - swapped), 1))  # [N/2, 2, C, *]
        return self.decode(parts.transpose(0, 1).flatten(0, 1))


def _switch(swap, features):
    if swap.dtype != torch.bool or swap.shape != features.shape[:1]:
        kind = TypeError if swap.dtype != torch.bool else ValueError
        raise kind(f"`swap` must hold one boolean a row, [{len(features)}], got {swap.dtype} {list(swap.shape)}")
    return swap


class OpenModel(SplitModel):
    """The same three stages without a key: the original network and its +layers form, whose features cross in the
    open."""

    keyed = False

    def conceal(self, a, *key):
        """Nothing is concealed: the features themselves, `[N, C, h, w]`."""
        return a

    def reveal(self, h, *key):
        """Logits `[N, classes]` of what the cloud sent back."""
        return self.decode(h)

    def forward(self, x):
        """Logits `[N, classes]` of x `[N, 3, H, W]`."""
        return self.decode(self.process(self.conceal(self.encode(x))))


class NoisyModel(OpenModel):
    """The original network with noise in place of a key: what crosses is a + gamma·eps, in training and in use.

    paper silent: eps is standard normal, drawn anew for each element and pass from torch's generator. (A published
    re-implementation draws one eps for the whole batch, around the batch's mean; an adversary could average it away.)
    """

    def __init__(self, encoder, processor, decoder, gamma):
        super().__init__(encoder, processor, decoder)
        if not gamma >= 0:
            raise ValueError(f"`gamma` must be >= 0, got {gamma}")
        self.gamma = gamma

    def conceal(self, a, *key):
        """Noisy features, `[N, C, h, w]`."""
        return a + self.gamma * torch.randn_like(a)
