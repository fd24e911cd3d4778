"""The angle attack: a network shaped like the critic guesses each key's angle from what the cloud saw.

The adversary encodes images of its own, rotates them under keys it draws afresh each epoch, and learns the angle it
drew.
"""

import torch

from experiments.attacks.knowledge import Features
from experiments.attacks.learn import learn
from experiments.evaluate import AT_ONCE, batches, fitting
from experiments.metrics import angle_errors
from experiments.seeds import generator, initialising
from models.attackers import AnglePredictor

KNOWS = ("encode", "scheme", "train", "val")


def attack(transcript, knowledge, settings, seed, work, kind="lenet"):
    """Guess the angle of every sample of the transcript.

    Returns:
        (angles `[N]` in [0, 2π), the predictor); the epoch with the lowest mean circular error on own validation
        images.
    """
    a_train, a_val = (Features(knowledge.encode, images) for images in (knowledge.train, knowledge.val))
    conceal = knowledge.scheme.conceal
    with initialising(seed, "angle"):
        predictor = AnglePredictor(*transcript.seen.shape[2:4], loss=settings.angle_loss, kind=kind)
    predictor = predictor.to(knowledge.train.labels.device)

    def loss(index, rng):
        return predictor.loss(*conceal(a_train[index], rng)[:2])

    def score():
        rng, errors = generator(seed, "angle", "validation"), []
        for index in a_val.parts():
            with torch.no_grad():
                z, theta = conceal(a_val[index], rng)[:2]
            errors.append(angle_errors(guess(predictor, z), theta)["circular"])
        return "val_angle_error", torch.cat(errors).mean().item()

    def rate(share):
        return settings.angle_lr

    def measure(mean_loss):
        return {"loss": mean_loss.item()}

    much = settings.angle_epochs, settings.angle_batch
    learn(predictor, len(a_train), *much, rate, loss, measure, score, work, seed, "angle")
    return guess(predictor, transcript.seen), predictor


def guess(predictor, z):
    """Angles `[N]` of planar z, wherever it lies, without a gradient."""
    device = next(predictor.parameters()).device
    size = min(AT_ONCE, fitting(*z.shape[-2:]))
    with torch.no_grad():
        return torch.cat([predictor(z[index].to(device)) for index in batches(len(z), size)])
