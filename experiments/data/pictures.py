"""CelebA, CUB-200-2011 and any folder of images."""

import torch

from experiments.data.cache import decoded
from experiments.data.deal import grouped, stratified
from experiments.data.images import DataError, Images, Source

PRIVATE = (2, 3, 6, 15, 19, 23, 25, 36, 37, 38)  # CelebA's hidden attributes, as the authors' code numbers them
ATTRIBUTES = {
    "all": tuple(range(40)),
    "public": tuple(i for i in range(40) if i not in PRIVATE),
    "private": PRIVATE,
}
WHOLE = {"celeba": 202_599, "cub": 11_788}  # images
KINDS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
NEEDS = {
    "celeba": (
        "celeba/list_attr_celeba.txt",
        "celeba/identity_CelebA.txt",
        "celeba/list_eval_partition.txt",
        "celeba/img_align_celeba",
    ),
    "cub": (
        "CUB_200_2011/images.txt",
        "CUB_200_2011/image_class_labels.txt",
        "CUB_200_2011/train_test_split.txt",
        "CUB_200_2011/images",
    ),
    "folder": (),
}
SOURCES = {"celeba": "the CelebA page of MMLAB", "cub": "the CUB-200-2011 page of Caltech", "folder": "you"}


def missing(name, root):
    """What is not there, relative to `root`."""
    return [part for part in NEEDS[name] if not (root / part).exists()] or ([] if root.is_dir() else ["."])


def count(name, root):
    """Images that the lists name."""
    if name == "celeba":
        return len(_table(root / "celeba/list_attr_celeba.txt")) - 2
    return len(_table(root / "CUB_200_2011/images.txt"))


def read(name, root, side, labels, accept_checksum_mismatch=False, progress=None):
    """A set of pictures, scaled to `side` x `side`.

    Args:
        root: the folder that holds `celeba`, `CUB_200_2011`, or a folder a class.
        labels: for CelebA `'all'`, `'public'` or `'private'` attributes.
        accept_checksum_mismatch: CelebA only: read a part of it, or a copy of another size.
    """
    for part in missing(name, root):
        raise DataError(
            f"no {part} in {root}; `--data-root` must be the folder that holds the set as torchvision lays it out "
            f"(get it from {SOURCES[name]})"
        )
    listing = {"celeba": _celeba, "cub": _cub, "folder": _folder}[name]
    paths, targets, test, people, notes = listing(root, labels, accept_checksum_mismatch)
    for path in paths:
        if not path.is_file():
            raise DataError(f"no file {path}, which the lists of {name} name; get a fresh copy")
    pixels, identity = decoded(paths, side, root / ".decoded", progress)
    train, test = (~test).nonzero()[:, 0], test.nonzero()[:, 0]
    images = Images(pixels, targets).mapped()
    groups = (None, None) if people is None else (people[train], people[test])
    return Source(images[train], images[test], identity, notes, groups)


def _table(path):
    """Rows of words, a header apart."""
    try:
        return [line.split() for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); get a fresh copy") from None


def _celeba(root, labels, accept):
    whole = WHOLE["celeba"]
    folder = root / "celeba"
    rows = _table(folder / "list_attr_celeba.txt")[2:]  # the count, then the 40 names
    if len(rows) != whole and not accept:
        raise DataError(
            f"{folder} holds {len(rows):,} of CelebA's {whole:,} images; get all of it, or read this part with "
            "--accept-checksum-mismatch"
        )
    columns = ATTRIBUTES[labels]
    try:
        targets = torch.tensor([[float(row[1 + i] == "1") for i in columns] for row in rows])
        who = {name: int(number) for name, number in _table(folder / "identity_CelebA.txt")}
        role = {name: int(number) for name, number in _table(folder / "list_eval_partition.txt")}
        people = torch.tensor([who[row[0]] for row in rows])
        test = torch.tensor([role[row[0]] == 2 for row in rows])
    except (IndexError, KeyError, ValueError) as error:
        raise DataError(f"the lists in {folder} do not fit together ({error}); get a fresh copy") from None
    notes = [] if len(rows) == whole else [f"a part of CelebA: {len(rows):,} of {whole:,} images"]
    if not test.any():
        test[grouped(people, 0.2, "celeba", "test")[0]] = True
        notes.append("no image of the official test partition is there: a fifth of the people was set apart instead")
    return [folder / "img_align_celeba" / row[0] for row in rows], targets, test, people, notes


def _cub(root, labels, accept):
    folder = root / "CUB_200_2011"
    try:
        names = dict(_table(folder / "images.txt"))
        classes = {i: int(c) - 1 for i, c in _table(folder / "image_class_labels.txt")}
        train = {i: flag == "1" for i, flag in _table(folder / "train_test_split.txt")}
        targets = torch.tensor([classes[i] for i in names])
        test = torch.tensor([not train[i] for i in names])
    except (KeyError, ValueError) as error:
        raise DataError(f"the lists in {folder} do not fit together ({error}); get a fresh copy") from None
    present = len(targets.unique())
    notes = [] if present == 200 else [f"a part of CUB-200-2011: {present} of 200 classes"]
    return [folder / "images" / name for name in names.values()], targets, test, None, notes


def _folder(root, labels, accept):
    """`root/<class>/<image>`, or `root/train/<class>/...` and `root/test/<class>/...`."""
    given = [root / part for part in ("train", "test")]
    halves = given if all(p.is_dir() for p in given) else [root]
    found = [sorted(p for p in half.glob("*/*") if p.suffix.lower() in KINDS) for half in halves]
    names = sorted({path.parent.name for paths in found for path in paths})
    if len(names) < 2:
        raise DataError(f"{root} must hold a folder of images for each of two or more classes, found {len(names)}")
    number = {name: i for i, name in enumerate(names)}
    paths = [path for half in found for path in half]
    targets = torch.tensor([number[path.parent.name] for path in paths])
    test = torch.zeros(len(paths), dtype=torch.bool)
    if len(halves) == 2:
        test[len(found[0]) :] = True
        return paths, targets, test, None, []
    test[stratified(targets, 0.2, "folder", "test")[0]] = True
    return paths, targets, test, None, ["no train and test folders: a fifth of each class was set apart"]
