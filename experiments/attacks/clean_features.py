"""An anchor, not an attack: the same U-Net given the keyed network's features before the rotation, which no
adversary has."""

from experiments.attacks.knowledge import Reconstruction
from experiments.attacks.redraw import draw, train_unet

KNOWS = ("encode", "train", "val", "clean_features")


def attack(transcript, knowledge, settings, seed, work):
    """Redraw every victim's image from its clean features; the transcript is not read."""
    unet = train_unet(lambda a, rng: a, knowledge, settings, seed, "clean_features", work)
    return Reconstruction(lambda index: draw(unet, knowledge.clean_features, index), unet.state_dict())
