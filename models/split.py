"""The walk of one image: encoder (device), rotation by the key, processor (cloud), reverse rotation, decoder
(device)."""

from torch import nn

import cvkernels.functional as F


class SplitModel(nn.Module):
    """A network in three stages, walked under a key.

    The key (b, theta) is an argument of the walk and never an attribute: whoever holds the weights does not hold a key.

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

    def conceal(self, a, theta, b):
        """Features a `[N, C, h, w]` and the key -> planar `[N, 2, C, h, w]`, all that an adversary ever sees."""
        b = self._other(a, b)
        return F.rotate(a, b.detach() if self.detach_b else b, theta)

    def reveal(self, h, theta):
        """Back on the device: planar features and the key's angle -> logits `[N, classes]`, decode(Re(h·exp(-iθ)))."""
        return self.decode(F.unrotate(h, theta))

    def forward(self, x, theta, b=None):
        """Logits `[N, classes]` of x `[N, 3, H, W]` under the key theta `[N]` (radians) and b.

        Args:
            b: real features shaped like the encoder's output, or an integer index `[N]` into the batch, so that the
                encoder runs once a step. Left out, each image is paired with the next of its batch.
        Raises:
            ValueError: a batch of one without `b`: it has no other image.
        """
        a = self.encode(x)  # [N, C, h, w] real
        z = self.conceal(a, theta, b)  # [N, 2, C, h, w] planar: (a + ib)·exp(iθ)
        h = self.process(z)  # planar
        return self.reveal(h, theta)

    def predict(self, x, theta, b=None):
        """Class `[N]` of the largest logit; the softmax would not change which one that is."""
        return self(x, theta, b).argmax(1)

    @staticmethod
    def _other(a, b):
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
        return a[b]


class OpenModel(SplitModel):
    """The same three stages without a key: the original network and its +layers form, whose features cross in the
    open."""

    keyed = False

    def conceal(self, a, theta=None, b=None):
        """Nothing is concealed: the features themselves, `[N, C, h, w]`."""
        return a

    def reveal(self, h, theta=None):
        """Logits `[N, classes]` of what the cloud sent back."""
        return self.decode(h)

    def forward(self, x):
        """Logits `[N, classes]` of x `[N, 3, H, W]`."""
        return self.decode(self.process(self.encode(x)))

    def predict(self, x):
        """Class `[N]` of the largest logit."""
        return self(x).argmax(1)
