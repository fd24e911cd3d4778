"""The attack on a network without a key: redraw the image from the features, which cross in the open. It is the
positive control of every other attack: what this U-Net can do at this budget where nothing is hidden."""

from experiments.attacks.knowledge import Reconstruction
from experiments.attacks.redraw import draw, train_unet

KNOWS = ("encode", "train", "val")


def attack(transcript, knowledge, settings, seed, log):
    """Redraw every image of the transcript `[N, C, h, w]`."""
    unet = train_unet(lambda a, rng: a, knowledge, settings, seed, "open_features", log)
    return Reconstruction(draw(unet, transcript.seen), unet.state_dict())
