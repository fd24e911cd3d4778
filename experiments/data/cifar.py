"""CIFAR-10 and CIFAR-100 through torchvision's readers, with its checksums."""

import hashlib
import pickle
import shutil
import warnings
from pathlib import Path

import torch

from experiments.data.deal import content
from experiments.data.images import DataError, Images, Source

LABELS = ("fine", "coarse")  # CIFAR-100's 100 classes or their 20 super-classes
TITLES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}


def reader(name):
    from torchvision.datasets import CIFAR10, CIFAR100

    return {"cifar10": CIFAR10, "cifar100": CIFAR100}[name]


def official(name):
    """{file: md5} as torchvision has them."""
    kind = reader(name)
    return dict(kind.train_list + kind.test_list) | {kind.meta["filename"]: kind.meta["md5"]}


def missing(name, root):
    """The files that are not there, of the folder that holds the set."""
    folder = Path(root) / reader(name).base_folder
    return [file for file in official(name) if not (folder / file).is_file()]


def differing(name, root):
    """The files whose checksum is not the official one."""
    folder = Path(root) / reader(name).base_folder
    return [file for file, md5 in official(name).items() if _md5(folder / file) != md5]


def read(name, root=None, accept_checksum_mismatch=False, labels="fine"):
    """CIFAR-10 or CIFAR-100.

    Args:
        root: the folder that holds `cifar-10-batches-py` or `cifar-100-python`; None downloads to `data/` once.
        accept_checksum_mismatch: also read a copy whose checksums differ. torchvision's reader unpickles it: a copy
            from a source you do not trust can run code.
        labels: `'fine'`, or for CIFAR-100 `'coarse'`.
    """
    kind, title = reader(name), TITLES[name]
    if root is None:
        root = _download(name, Path("data"))
    folder = Path(root) / kind.base_folder
    for file in missing(name, root):
        raise DataError(f"no file {file} in {folder}; `--data-root` must be the folder that holds {kind.base_folder}")
    others = differing(name, root)
    if others and not accept_checksum_mismatch:
        raise DataError(
            f"the checksum of {', '.join(others)} in {folder} is not the official one; "
            "get a fresh copy, or read this one with --accept-checksum-mismatch if you trust it (its reader "
            "unpickles it)"
        )

    class Accepted(kind):  # the checksums have been looked at above
        def _check_integrity(self):
            return True

        def _load_meta(self):
            pass  # the class names, which nothing here reads

    def half(train):
        with warnings.catch_warnings():
            # numpy's remark on how the official batches, pickled in 2009, spell an array's dtype
            warnings.filterwarnings("ignore", message=".*align.*")
            raw = Accepted(str(root), train=train)
            targets = _coarse(folder / ("train" if train else "test")) if labels == "coarse" else raw.targets
        return Images(torch.from_numpy(raw.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(targets))

    try:
        train, test = half(True), half(False)
    except Exception as error:  # a damaged pickle fails in as many ways as there are bytes
        raise DataError(f"{folder} cannot be read as {title} ({error}); get a fresh copy") from error
    notes = [f"a copy whose checksum differs from the official one was accepted: {', '.join(others)}"] if others else []
    return Source(train, test, content(train, test), notes)


def _coarse(path):
    """The super-classes, which torchvision's reader leaves where they are; the same file, the same trust."""
    with path.open("rb") as file:
        return pickle.load(file, encoding="latin1")["coarse_labels"]


def _download(name, root):
    """Fetch into a folder beside the final one and rename, so that an interrupted download leaves nothing that looks
    whole."""
    kind = reader(name)
    if (root / kind.base_folder).is_dir():
        return root
    part = root / f".{name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        print(f"{TITLES[name]} (163 MiB) is fetched to {root}", flush=True)
        kind(str(part), download=True)
        (part / kind.base_folder).rename(root / kind.base_folder)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{TITLES[name]} could not be downloaded ({error}); "
            f"give the folder that holds {kind.base_folder} with --data-root DIR, or use --data digits, which "
            "needs no network"
        ) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return root


def _md5(path):
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
