"""What an adversary has: the transcript (what the cloud saw of the victims) and a declared knowledge.

An attack's file declares what it needs in `KNOWS`; it is given that and no more, and asking for anything else is an
error, not a habit: no attack is handed the model, the victims' images, or their keys.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from experiments.data.images import to_input
from experiments.evaluate import at_once, batches

IN_MEMORY = 3 * 2**30  # bytes of features that are kept; ResNet-20's of 45,000 images at 16x32x32 are 2.75 GiB

DESCRIPTIONS = {
    "encode": "query access to the device's encoder, on images of the adversary's own",
    "train": "images of the adversary's own, to learn from",
    "scheme": "how keys are drawn and where b comes from, which is public; the draws are the secret",
    "gamma": "the size of the noise that a noisy network adds to its features, which is public; the draws are not",
    "val": "images of the adversary's own, to choose checkpoints by",
    "guess_angle": "the adversary's own angle predictor",
    "clean_features": "the victims' features before the rotation: no adversary has them; only the anchor is given them",
}


class Undeclared(RuntimeError):
    """An attack asked for what its adversary does not know."""


@dataclass(frozen=True)
class Transcript:
    """What the cloud saw: planar `[N, 2, C, h, w]` under a key, `[N, C, h, w]` where features cross in the open."""

    seen: torch.Tensor


class Knowledge:
    """Facts by name, read as attributes; `clean_features` and every other fact is there only if it was declared."""

    def __init__(self, **facts):
        unknown = set(facts) - set(DESCRIPTIONS)
        if unknown:
            raise ValueError(f"`facts` must be among {', '.join(DESCRIPTIONS)}, got {', '.join(sorted(unknown))}")
        self.__dict__["_facts"] = facts

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        if name not in self._facts:
            declared = ", ".join(self._facts) or "nothing"
            raise Undeclared(f"`{name}` is not in this adversary's declared knowledge ({declared})")
        return self._facts[name]

    def __setattr__(self, name, value):
        raise Undeclared(f"`{name}` cannot be added to a declared knowledge")

    def only(self, names):
        """The same knowledge cut down to what an attack declares in its `KNOWS`."""
        return Knowledge(**{name: getattr(self, name) for name in names})


@dataclass(frozen=True)
class Reconstruction:
    """What an attack hands back: the images it redraws of the transcript's rows at an index `[n]`, a function to
    `[n, 3, H, W]` in 0..1 (all of them need not fit the memory), and its networks' weights."""

    redraw: Callable
    weights: dict


class Features:
    """What a frozen encoder gives for images, by index: `[n, C, h, w]`, kept where it is little, else encoded anew."""

    def __init__(self, encode, images):
        self.encode, self.images = encode, images
        some = self._encoded(torch.arange(min(2, len(images))))
        size = len(images) * some[0].numel() * some.element_size()
        self.kept = encode_all(encode, images) if size <= IN_MEMORY else None

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self._encoded(index) if self.kept is None else self.kept[index]

    def parts(self):
        """Indices that cover all of them in order: in one piece where they are kept."""
        return batches(len(self), len(self) if self.kept is not None else at_once(self.images))

    def _encoded(self, index):
        with torch.no_grad():
            return self.encode(to_input(self.images.batch(index).pixels))


def encode_all(encode, images):
    """Features `[N, C, h, w]` of the adversary's own images, queried once: the encoder is frozen, the keys are not."""
    with torch.no_grad():
        return torch.cat(
            [encode(to_input(images.batch(index).pixels)) for index in batches(len(images), at_once(images))]
        )


def both_parts(z):
    """Planar `[N, 2, C, h, w]` -> `[N, 2C, h, w]`, as a real network reads it."""
    return z.flatten(1, 2)


def real_part(z):
    """Planar `[N, 2, C, h, w]` -> `[N, C, h, w]`: what published code shows its U-Net of a pair, one part at a time."""
    return z[:, 0]
