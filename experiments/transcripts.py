"""What the cloud sees of images, in memory where it is little and in a mapped file where it is much."""

import os
import tempfile

import torch

from experiments.attacks.knowledge import IN_MEMORY
from experiments.seeds import generator, number


def crossing(model, scheme, features, seed, whose):
    """What the cloud sees of some features, part by part: (what crosses `[n, ...]`, its angles `[n]`, which only the
    scoring is told; None without a key).

    Args:
        scheme: how keys are drawn; None for a network without.
        features: `attacks.knowledge.Features`.
        seed, whose: what the keys depend on.
    """
    rng = generator(seed, "keys", "transcript", whose)
    for index in features.parts():
        a = features[index]
        with torch.no_grad():
            if scheme:
                yield scheme.conceal(a, rng)[:2]
                continue
            with torch.random.fork_rng(devices=[a.device] if a.is_cuda else []):
                torch.manual_seed(number(rng))  # the network's own noise is drawn from torch's generator
                yield model.conceal(a), None


def gathered(parts, n, place):
    """One tensor `[n, ...]` of its parts in order; above `IN_MEMORY` bytes mapped from a file under `place` that goes
    with it.

    Raises:
        OSError: no room for it on the disk.
    """
    parts = iter(parts)
    first = next(parts)
    row, size = first.shape[1:], n * first[0].numel()
    if size * first.element_size() <= IN_MEMORY:
        return torch.cat([first, *parts])
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=place, prefix=".transcript") as file:  # its name goes here, its bytes later
        if hasattr(os, "posix_fallocate"):  # a full disk says so now, and not by a signal later
            os.posix_fallocate(file.fileno(), 0, size * first.element_size())
        whole = torch.from_file(file.name, shared=True, size=size, dtype=first.dtype).view(n, *row)
    whole[: len(first)] = first
    at = len(first)
    for part in parts:
        whole[at : at + len(part)] = part
        at += len(part)
    return whole
