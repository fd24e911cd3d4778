"""Images as tensors, split once and for all between the defender and the attacker.

Six parts: each side has its own train, validation (10 % of its training half) and test images. The split is
stratified by class and fixed: it does not depend on the run's seed, so that seeds differ in training only.
"""

import hashlib
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.functional import interpolate

from experiments.seeds import generator

SIDE = 32
VALIDATION = 0.1  # of a training half


class DataError(RuntimeError):
    """Data that is missing, damaged or refused; the message is one line and says what to do."""


@dataclass(frozen=True)
class Images:
    """Pixels `[N, 3, 32, 32]`, float32 in 0..1, and labels `[N]`."""

    pixels: torch.Tensor
    labels: torch.Tensor

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return Images(self.pixels[index], self.labels[index])

    def to(self, device):
        return Images(self.pixels.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Side:
    """What one party holds."""

    train: Images
    val: Images
    test: Images

    def to(self, device):
        return Side(self.train.to(device), self.val.to(device), self.test.to(device))


@dataclass(frozen=True)
class Data:
    """A data set dealt out: `defender` and `attacker` share no image, unless `halves` was false."""

    name: str
    classes: int
    defender: Side
    attacker: Side
    fingerprint: str
    notes: tuple  # what a report must say of the data: a subset, a checksum not met

    def to(self, device):
        return Data(
            self.name, self.classes, self.defender.to(device), self.attacker.to(device), self.fingerprint, self.notes
        )


def to_input(pixels):
    """Pixels 0..1 -> what the networks read, mean .5 and standard deviation .5: -1..1."""
    return pixels * 2 - 1


def load(name, settings, root=None, accept_checksum_mismatch=False):
    """The data set `'digits'` (embedded) or `'cifar10'` (torchvision's layout under `root`; downloaded where none is
    given)."""
    if name == "digits":
        train, test, notes = *digits(), []
    elif name == "cifar10":
        train, test, notes = cifar10(root, accept_checksum_mismatch)
    else:
        raise DataError(f"`data` must be digits or cifar10, got {name!r}")
    return deal(name, train, test, settings, notes)


def deal(name, train, test, settings, notes=()):
    """Halve train and test between the parties, class by class, cut to the declared subset, and set validation
    apart."""
    notes = list(notes)
    parts = {}
    for role, images, limit in (("train", train, settings.train_images), ("test", test, settings.test_images)):
        if settings.halves:
            halves = stratified(images.labels, 0.5, name, role, "halves")
        else:
            halves = [torch.arange(len(images))] * 2
        for party, index in zip(("defender", "attacker"), halves, strict=True):
            if limit and limit > len(index):
                raise DataError(
                    f"`{role}_images` must be at most {len(index)}, what one party has of {name}, got {limit}"
                )
            if limit and limit < len(index):
                index = index[stratified(images.labels[index], limit / len(index), name, role, "subset")[0]]
            parts[party, role] = _unit(images[index])
        if limit and limit < len(halves[0]):
            notes.append(f"a subset: {limit} of each party's {len(halves[0])} {role} images")

    def side(party):
        val, train = stratified(parts[party, "train"].labels, VALIDATION, name, "validation")
        return Side(parts[party, "train"][train], parts[party, "train"][val], parts[party, "test"])

    defender, attacker = side("defender"), side("attacker")
    classes = int(train.labels.max()) + 1
    return Data(name, classes, defender, attacker, fingerprint(defender, attacker), tuple(notes))


def _unit(images):
    """Bytes 0..255 become 0..1: only now, so that a subset of a large set stays small."""
    if images.pixels.dtype != torch.uint8:
        return images
    return Images(images.pixels.float().div_(255).contiguous(), images.labels)


def stratified(labels, share, *purpose):
    """Two sorted index tensors, `share` of each class (as near as whole images allow, and exactly in all) and the
    rest."""
    rng = generator("split", *purpose)
    classes = labels.unique().tolist()
    members = [(labels == c).nonzero()[:, 0] for c in classes]
    wanted = [share * len(m) for m in members]
    counts = [int(w) for w in wanted]
    missing = round(share * len(labels)) - sum(counts)
    for i in sorted(range(len(classes)), key=lambda i: counts[i] - wanted[i])[:missing]:  # largest remainder first
        counts[i] += 1
    first, rest = [], []
    for m, count in zip(members, counts, strict=True):
        m = m[torch.randperm(len(m), generator=rng)]
        first.append(m[:count])
        rest.append(m[count:])
    return torch.cat(first).sort().values, torch.cat(rest).sort().values


def fingerprint(*sides):
    """A hash of every pixel and label in their parts."""
    digest = hashlib.sha256()
    for side in sides:
        for part in (side.train, side.val, side.test):
            digest.update(part.pixels.numpy().tobytes())
            digest.update(part.labels.numpy().tobytes())
    return digest.hexdigest()[:16]


def digits():
    """The 1,797 handwritten digits inside scikit-learn, 8x8, brought to 32x32 bilinearly, as three equal channels;
    four fifths to learn from."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    small = torch.tensor(raw.images, dtype=torch.float32)[:, None] / 16  # [1797, 1, 8, 8], grey levels 0..16
    large = interpolate(small, size=(SIDE, SIDE), mode="bilinear", align_corners=False).clamp(0, 1)
    images = Images(large.expand(-1, 3, -1, -1).contiguous(), torch.tensor(raw.target, dtype=torch.int64))
    test, train = stratified(images.labels, 0.2, "digits", "test")
    return images[train], images[test]


def cifar10(root=None, accept_checksum_mismatch=False):
    """CIFAR-10 through torchvision's reader: (train, test, notes).

    Args:
        root: the folder that holds `cifar-10-batches-py`; None downloads to `data/` once.
        accept_checksum_mismatch: also read a copy whose checksums differ. torchvision's reader unpickles it: a copy
            from a source you do not trust can run code.
    """
    from torchvision.datasets import CIFAR10

    if root is None:
        root = _download(CIFAR10, Path("data"))
    folder = Path(root) / CIFAR10.base_folder
    files = [name for name, _ in CIFAR10.train_list + CIFAR10.test_list] + [CIFAR10.meta["filename"]]
    for name in files:
        if not (folder / name).is_file():
            raise DataError(
                f"no file {name} in {folder}; `--data-root` must be the folder that holds {CIFAR10.base_folder}"
            )
    official = dict(CIFAR10.train_list + CIFAR10.test_list) | {CIFAR10.meta["filename"]: CIFAR10.meta["md5"]}
    differing = [name for name in files if _md5(folder / name) != official[name]]
    if differing and not accept_checksum_mismatch:
        raise DataError(
            f"the checksum of {', '.join(differing)} in {folder} is not the official one; "
            "get a fresh copy, or read this one with --accept-checksum-mismatch if you trust it (its reader "
            "unpickles it)"
        )

    class Accepted(CIFAR10):  # the checksums have been looked at above
        def _check_integrity(self):
            return True

        def _load_meta(self):
            pass  # the class names, which nothing here reads

    def read(train):
        with warnings.catch_warnings():
            # numpy's remark on how the official batches, pickled in 2009, spell an array's dtype
            warnings.filterwarnings("ignore", message=".*align.*")
            raw = Accepted(str(root), train=train)
        return Images(torch.from_numpy(raw.data).permute(0, 3, 1, 2), torch.tensor(raw.targets))

    try:
        train, test = read(True), read(False)
    except Exception as error:  # a damaged pickle fails in as many ways as there are bytes
        raise DataError(f"{folder} cannot be read as CIFAR-10 ({error}); get a fresh copy") from error
    notes = (
        [f"a copy whose checksum differs from the official one was accepted: {', '.join(differing)}"]
        if differing
        else []
    )
    return train, test, notes


def _download(reader, root):
    """Fetch into a folder beside the final one and rename, so that an interrupted download leaves nothing that looks
    whole."""
    if (root / reader.base_folder).is_dir():
        return root
    part = root / ".cifar10.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        print(f"CIFAR-10 (163 MiB) is fetched to {root}", flush=True)
        reader(str(part), download=True)
        (part / reader.base_folder).rename(root / reader.base_folder)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"CIFAR-10 could not be downloaded ({error}); "
            f"give the folder that holds {reader.base_folder} with --data-root DIR, or use --data digits, which "
            "needs no network"
        ) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return root


def _md5(path):
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
