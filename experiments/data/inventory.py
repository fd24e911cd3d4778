"""What is there of each data set, what is missing, and where to put it: `python -m experiments data check`."""

from pathlib import Path

from experiments.data import cifar, pictures


def inventory(root=None):
    """Rows (set, state, what to do), for the folder that holds them (default `data/`). Nothing is decoded or
    downloaded."""
    root = Path(root or "data")
    rows = [("digits", "embedded", "nothing: scikit-learn carries them")]
    for name in ("cifar10", "cifar100"):
        place = root / cifar.reader(name).base_folder
        if not place.is_dir():
            rows.append(
                (name, f"missing: {place}", "put torchvision's folder there, or train once without --data-root")
            )
            continue
        lost = cifar.missing(name, root)
        if lost:
            rows.append((name, f"incomplete: no {', '.join(lost)}", f"get a fresh copy into {root}"))
            continue
        others = cifar.differing(name, root)
        if others:
            todo = "read with --accept-checksum-mismatch if you trust it, or get a fresh copy"
            rows.append((name, f"another copy: checksum of {', '.join(others)}", todo))
        else:
            rows.append((name, "whole, official checksums", "nothing"))
    for name in ("celeba", "cub"):
        lost = pictures.missing(name, root)
        if lost:
            todo = f"get it from {pictures.SOURCES[name]} and put it there as torchvision lays it out"
            rows.append((name, f"missing: {', '.join(str(root / part) for part in lost)}", todo))
            continue
        count = pictures.count(name, root)
        whole = count == pictures.WHOLE[name]
        state = f"whole, {count:,} images" if whole else f"a part: {count:,} of {pictures.WHOLE[name]:,} images"
        flag = name == "celeba" and not whole
        rows.append((name, state, "read with --accept-checksum-mismatch" if flag else "nothing"))
    return rows
