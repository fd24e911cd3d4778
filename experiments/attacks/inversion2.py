"""Inversion attack 2: redraw the image from both parts of what the cloud saw, without looking for the angle."""

from experiments.attacks.knowledge import Reconstruction, both_parts, real_part
from experiments.attacks.redraw import draw, train_unet

KNOWS = ("encode", "scheme", "train", "val")


def attack(transcript, knowledge, settings, seed, work):
    """Redraw every image of the transcript."""
    read = real_part if settings.single_part else both_parts

    def view(a, rng):
        z = knowledge.scheme.conceal(a, rng)[0]
        return read(z)

    unet = train_unet(view, knowledge, settings, seed, "inversion2", work)
    return Reconstruction(lambda index: draw(unet, transcript.seen, index, read), unet.state_dict())
