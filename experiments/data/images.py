"""What a data set is once it is read: pixels and labels, and who holds which."""

from dataclasses import dataclass, field

import torch

ON_DEVICE = 2**31  # bytes of pixels up to which a part moves to the device whole; a larger one stays and is sliced


class DataError(RuntimeError):
    """Data that is missing, damaged or refused; the message is one line and says what to do."""


@dataclass(frozen=True)
class Images:
    """Pixels `[N, 3, H, W]`, uint8 0..255 or float32 0..1, and labels: classes `[N]`, int64, or attributes `[N, A]`,
    float32 0 or 1.

    `rows` `[N]`: which of `pixels` these are, where they are a selection of a file that is mapped and not loaded.
    """

    pixels: torch.Tensor
    labels: torch.Tensor
    rows: torch.Tensor | None = None

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        labels = self.labels[index.to(self.labels.device)]
        if self.rows is not None:
            return Images(self.pixels, labels, self.rows[index.cpu()])
        return Images(self.pixels[index.to(self.pixels.device)], labels)

    def mapped(self):
        """The same, of which a selection is a list of rows until pixels are asked for."""
        return Images(self.pixels, self.labels, torch.arange(len(self)))

    def loaded(self):
        """The same with pixels of its own."""
        return self if self.rows is None else Images(self.pixels[self.rows], self.labels)

    def unit(self):
        """The same with pixels float32 in 0..1."""
        here = self.loaded()
        if here.pixels.dtype != torch.uint8:
            return here
        return Images(here.pixels.float().div_(255), here.labels)

    def batch(self, index):
        """The images at `index` where the labels live, their pixels float32 in 0..1."""
        some = self[index].loaded()
        return Images(some.pixels.to(self.labels.device), some.labels).unit()

    def to(self, device):
        """Whole to the device where the pixels are few; else they stay and are moved batch by batch."""
        size = len(self) * self.pixels[:1].numel() * self.pixels.element_size()
        if size > ON_DEVICE:
            return Images(self.pixels, self.labels.to(device), self.rows)
        here = self.loaded()
        return Images(here.pixels.to(device), here.labels.to(device))


@dataclass(frozen=True)
class Side:
    """What one party holds."""

    train: Images
    val: Images
    test: Images

    def to(self, device):
        return Side(self.train.to(device), self.val.to(device), self.test.to(device))


@dataclass(frozen=True)
class Source:
    """A data set as it was read, before it is dealt out.

    `identity`: a hash of its content. `people`: for train and test, a group for each image that no split may cut
    through, or None. `notes`: what a report must say of it.
    """

    train: Images
    test: Images
    identity: str
    notes: list = field(default_factory=list)
    people: tuple = (None, None)


@dataclass(frozen=True)
class Data:
    """A data set dealt out: `defender` and `attacker` share no image, unless `halves` was false."""

    name: str
    outputs: int  # classes, or attributes
    defender: Side
    attacker: Side
    fingerprint: str
    notes: tuple  # what a report must say of the data: a subset, a checksum not met

    @property
    def classes(self):
        return self.outputs

    @property
    def side(self):
        """Height (and width) of the images."""
        return self.defender.train.pixels.shape[-1]

    def to(self, device):
        return Data(
            self.name, self.outputs, self.defender.to(device), self.attacker.to(device), self.fingerprint, self.notes
        )


def to_input(pixels):
    """Pixels 0..1 -> what the networks read, mean .5 and standard deviation .5: -1..1."""
    return pixels * 2 - 1
