"""Inversion attack 1: guess the angle, turn the features back to a* = Re(z e^{-iθ̂}), and redraw the image from a*.

The U-Net learns on a* of the adversary's own images, the predictor's mistakes included: it reads what it will have
to read.
"""

import cvkernels.functional as F
from experiments.attacks.knowledge import Reconstruction
from experiments.attacks.redraw import draw, train_unet

KNOWS = ("encode", "scheme", "train", "val", "guess_angle")


def attack(transcript, knowledge, settings, seed, work):
    """Redraw every image of the transcript."""

    def turned_back(z):
        guess = knowledge.guess_angle(z)
        return F.unrotate(z, -guess if settings.wrong_sign else guess)

    def view(a, rng):
        z = knowledge.scheme.conceal(a, rng)[0]
        return turned_back(z)

    unet = train_unet(view, knowledge, settings, seed, "inversion1", work)
    return Reconstruction(lambda index: draw(unet, transcript.seen, index, turned_back), unet.state_dict())
