"""Pictures decoded once, at the size that training reads, into one file of bytes that is mapped, not loaded."""

import hashlib
import json
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from experiments.data.images import DataError
from experiments.runs import replacing, write_json

FORMAT = 1  # raised by hand when the same pictures would be decoded to other bytes
EVERY = 5.0  # seconds between lines of progress


def decoded(paths, side, folder, progress=None):
    """Pixels `[N, 3, side, side]`, uint8, mapped from `folder`, and a hash of them.

    The file is named after the pictures' paths, sizes and the side; one that is there already is used. Pictures are
    scaled to a square bilinearly, whatever their shape, as the authors do.
    """
    listing = json.dumps([FORMAT, side, [(str(p.name), str(p.parent.name), p.stat().st_size) for p in paths]])
    key = hashlib.sha256(listing.encode()).hexdigest()[:16]
    pixels, facts = folder / f"{key}.npy", folder / f"{key}.json"
    if not facts.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(facts, {"images": len(paths), "side": side, "sha256": _decode(paths, side, pixels, progress)})
    array = np.load(pixels, mmap_mode="c")  # copy on write: torch refuses a read-only array
    return torch.from_numpy(array), json.loads(facts.read_text())["sha256"]


def _decode(paths, side, target, progress):
    shape = (len(paths), 3, side, side)
    began = shown = time.monotonic()
    digest = hashlib.sha256()
    with replacing(target) as part:
        array = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape)
        with ThreadPoolExecutor() as pool:
            for i, picture in enumerate(pool.map(lambda path: _open(path, side), paths, chunksize=64)):
                array[i] = picture
                digest.update(picture.tobytes())
                now = time.monotonic()
                if progress and now - shown > EVERY:
                    shown = now
                    left = (now - began) * (len(paths) - i - 1) / (i + 1)
                    progress(f"decoding picture {i + 1} of {len(paths)}, {left:.0f} s left")
        array.flush()
        del array
    return digest.hexdigest()[:16]


def _open(path, side):
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB").resize((side, side), Image.BILINEAR)).transpose(2, 0, 1)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a picture ({error}); get a fresh copy of it") from None
