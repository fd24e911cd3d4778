"""The data sets by name, each with what it takes to read it."""

from pathlib import Path

import torch
from torch.nn.functional import interpolate

from experiments.data import cifar, pictures
from experiments.data.deal import content, deal, stratified
from experiments.data.images import DataError, Images, Source
from experiments.settings import SETS

LABELS = {"cifar100": cifar.LABELS, "celeba": tuple(pictures.ATTRIBUTES)}  # the kinds of labels to choose from
SIDE = 32


def side_of(name, settings):
    """Pixels of a picture's side, as the networks read it."""
    return settings.side if name in ("celeba", "cub", "folder") else SIDE


def load(name, settings, root=None, accept_checksum_mismatch=False, progress=None):
    """A data set, read and dealt out.

    Args:
        name: `'digits'` (embedded), `'cifar10'`, `'cifar100'`, `'celeba'`, `'cub'`, or `'folder'`: one folder of
            images a class.
        settings: which labels, how many images, at what size.
        root: the folder that holds the set as torchvision lays it out; None: `data/`, where CIFAR is downloaded to.
        progress: called with a line where reading takes long.
    """
    if name not in SETS:
        raise DataError(f"`data` must be one of {', '.join(SETS)}, got {name!r}")
    kinds = LABELS.get(name, ("default",))
    kind = kinds[0] if settings.labels == "default" else settings.labels
    if kind not in kinds:
        raise DataError(f"`labels` of {name} must be one of {', '.join(kinds)}, got {settings.labels!r}")
    if name == "digits":
        source = digits()
    elif name in ("cifar10", "cifar100"):
        source = cifar.read(name, root, accept_checksum_mismatch, kind)
    else:
        source = pictures.read(name, Path(root or "data"), settings.side, kind, accept_checksum_mismatch, progress)
    return deal(name, source, settings)


def digits():
    """The 1,797 handwritten digits inside scikit-learn, 8x8, brought to 32x32 bilinearly, as three equal channels;
    four fifths to learn from."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    small = torch.tensor(raw.images, dtype=torch.float32)[:, None] / 16  # [1797, 1, 8, 8], grey levels 0..16
    large = interpolate(small, size=(SIDE, SIDE), mode="bilinear", align_corners=False).clamp(0, 1)
    images = Images(large.expand(-1, 3, -1, -1).contiguous(), torch.tensor(raw.target, dtype=torch.int64))
    test, train = stratified(images.labels, 0.2, "digits", "test")
    return Source(images[train], images[test], content(images))
