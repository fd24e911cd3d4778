"""Crop and flip of a whole batch in a few kernels, each sample with its own draw."""

import torch
from torch.nn.functional import pad

MARGIN = 4  # zeros around an image, in pixels, from which a crop of its own size is cut


def draw(n, rng):
    """What a batch of n is augmented by: rows and columns `[n]` in 0..2·MARGIN, and whether to flip, `[n]`."""
    rows, columns = torch.randint(0, 2 * MARGIN + 1, (2, n), generator=rng)
    return rows, columns, torch.randint(0, 2, (n,), generator=rng) == 1


def crop_and_flip(x, rows, columns, flip):
    """x `[N, C, H, W]`, padded by MARGIN zeros: sample n cut at (rows[n], columns[n]), then mirrored where flip[n].

    Zeros in the units of `x`, so x is what the network reads, where 0 is the mean.
    """
    n, c, h, w = x.shape
    padded = pad(x, (MARGIN,) * 4)
    across = torch.arange(w, device=x.device).expand(n, w)
    across = torch.where(flip[:, None], w - 1 - across, across) + columns[:, None]  # [N, W]
    down = torch.arange(h, device=x.device) + rows[:, None]  # [N, H]
    flat = padded.flatten(2)
    index = (down[:, :, None] * padded.shape[-1] + across[:, None, :]).view(n, 1, h * w)
    return flat.gather(2, index.expand(n, c, h * w)).view(x.shape)
