"""The attack on a network without a key: redraw the image from what crosses, the features themselves or, on a noisy
network, the features under noise. On the original network it is the positive control of every other attack: what this
U-Net can do at this budget where nothing is hidden."""

import torch

from experiments.attacks.knowledge import Reconstruction
from experiments.attacks.redraw import draw, train_unet

KNOWS = ("encode", "gamma", "train", "val")


def attack(transcript, knowledge, settings, seed, work):
    """Redraw every image of the transcript `[N, C, h, w]`."""

    def view(a, rng):
        if not knowledge.gamma:
            return a
        return a + knowledge.gamma * torch.randn(a.shape, generator=rng, dtype=a.dtype).to(a.device)

    unet = train_unet(view, knowledge, settings, seed, "open_features", work)
    return Reconstruction(lambda index: draw(unet, transcript.seen, index), unet.state_dict())
