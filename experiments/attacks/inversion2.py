"""Inversion attack 2: redraw the image from both parts of what the cloud saw, without looking for the angle."""

from experiments.attacks.knowledge import Reconstruction, both_parts
from experiments.attacks.redraw import draw, train_unet

KNOWS = ("encode", "scheme", "train", "val")


def attack(transcript, knowledge, settings, seed, log):
    """Redraw every image of the transcript."""

    def view(a, rng):
        z = knowledge.scheme.conceal(a, rng)[0]
        return both_parts(z)

    unet = train_unet(view, knowledge, settings, seed, "inversion2", log)
    return Reconstruction(draw(unet, both_parts(transcript.seen)), unet.state_dict())
