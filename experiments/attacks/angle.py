"""The angle attack: a network shaped like the critic guesses each key's angle from what the cloud saw.

The adversary encodes images of its own, rotates them under keys it draws afresh each epoch, and learns the angle it
drew.
"""

import copy

import torch

from experiments.attacks.knowledge import encode_all
from experiments.evaluate import AT_ONCE, batches
from experiments.metrics import angle_errors
from experiments.seeds import generator, initialising
from models.attackers import AnglePredictor

KNOWS = ("encode", "scheme", "train", "val")


def attack(transcript, knowledge, settings, seed, log, kind="lenet"):
    """Guess the angle of every sample of the transcript.

    Returns:
        (angles `[N]` in [0, 2π), the predictor); the epoch with the lowest mean circular error on own validation
        images.
    """
    a_train, a_val = (encode_all(knowledge.encode, images) for images in (knowledge.train, knowledge.val))
    conceal = knowledge.scheme.conceal
    with torch.no_grad():
        z_val, theta_val = conceal(a_val, generator(seed, "angle", "validation"))[:2]
    with initialising(seed, "angle"):
        predictor = AnglePredictor(*a_train.shape[1:3], loss=settings.angle_loss, kind=kind).to(a_train.device)
    optimiser = torch.optim.Adam(predictor.parameters(), lr=settings.angle_lr)
    best, kept = None, None
    for epoch in range(settings.angle_epochs):
        rng = generator(seed, "angle", epoch)
        losses = []
        for index in batches(len(a_train), settings.angle_batch, rng):
            loss = predictor.loss(*conceal(a_train[index], rng)[:2])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.detach())
        val = angle_errors(guess(predictor, z_val), theta_val)["circular"].mean().item()
        if best is None or val <= best:
            best, kept = val, copy.deepcopy(predictor.state_dict())
        metrics = {"epoch": epoch + 1, "loss": torch.stack(losses).mean().item(), "val_angle_error": val}
        log(epoch + 1, settings.angle_epochs, metrics)
    predictor.load_state_dict(kept)
    return guess(predictor, transcript.seen), predictor


def guess(predictor, z):
    """Angles `[N]` of planar z, without a gradient."""
    with torch.no_grad():
        return torch.cat([predictor(z[index]) for index in batches(len(z), AT_ONCE)])
