"""Random draws that depend on what they are for and not on what was drawn before.

Each draw has its own generator, seeded by (run seed, purpose, epoch, ...), so a stage redone after an interruption,
or run alone, repeats itself. Draws are made on the CPU and moved, so a GPU run sees the same keys.
"""

import hashlib
from contextlib import contextmanager

import torch

TURN = 2 * torch.pi


def generator(seed, *purpose):
    """A CPU generator for one purpose, for example `generator(0, "keys", "train", epoch)`."""
    name = "/".join(str(part) for part in (seed, *purpose))
    digest = hashlib.sha256(name.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@contextmanager
def initialising(seed, *purpose):
    """Weights made inside are drawn for this purpose; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(seed, *purpose).initial_seed())
        yield


def angles(*shape, rng, device="cpu"):
    """Angles in [0, 2π), radians, float32, uniform."""
    # `rand` has 24 bits, and float32's 2π rounds up, so the largest product would be 2π itself: fold it back to 0
    return (torch.rand(*shape, generator=rng) * TURN).remainder(TURN).to(device)


def number(rng):
    """A seed for a generator that is not ours: torch's own, from which dropout draws."""
    return int(torch.randint(2**62, (), generator=rng))


def partners(n, rng, device="cpu"):
    """An index `[n]` that gives each image of a batch another one: a random cycle, so a permutation without fixed
    points."""
    if n == 1:
        raise ValueError("`n` must not be 1: a batch of one has no other image; give features as b")
    order = torch.randperm(n, generator=rng)
    other = torch.empty_like(order)
    other[order] = order.roll(1)
    return other.to(device)
