"""How an adversary's network learns: epochs, validation, and a checkpoint after each, from which an interrupted attack
goes on to the bit."""

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch

from experiments.evaluate import batches
from experiments.optimisers import restore, tensors_of
from experiments.seeds import generator


def _silent(*record, **more):
    pass


@dataclass(frozen=True)
class Work:
    """How an attack is worked at, nothing of which tells it anything of its victims.

    `log`: called after each epoch with (epoch, epochs, metrics).   `step`: after each step with (epochs done, epochs,
    step, steps, images, means()).   `checkpoint`: after each epoch with (tensors, **facts).   `state`: what an
    interrupted attack gave `checkpoint` last, (tensors, facts).
    """

    log: Callable = _silent
    step: Callable = _silent
    checkpoint: Callable = _silent
    state: tuple | None = None


def learn(network, images, epochs, batch, rate, loss, measure, score, work, *purpose):
    """Train a network with Adam and leave it in inference mode with the weights of the epoch of the lowest score.

    Args:
        images: how many there are to learn from; each epoch takes them in an order of its own.
        rate: the share of all steps that is done -> learning rate.
        loss: (index of a batch, generator) -> scalar loss; what is drawn for the batch comes from the generator.
        measure: the mean loss of an epoch or of a part of one, a tensor -> metrics by name.
        score: () -> (its name, a number on own validation images), in inference mode.
        purpose: what the draws depend on, the seed first.
    """
    optimiser = torch.optim.Adam(network.parameters(), lr=rate(0.0))
    done, best, kept = 0, None, None
    if work.state:
        tensors, facts = work.state
        network.load_state_dict(_under("network.", tensors))
        restore(optimiser, _under("optimiser.", tensors))
        done, best, kept = facts["epoch"], facts["best"], _under("kept.", tensors)
    for epoch in range(done, epochs):
        network.train()
        rng = generator(*purpose, epoch)
        parts = batches(images, batch, rng)
        losses = []
        for step, index in enumerate(parts):
            for group in optimiser.param_groups:
                group["lr"] = rate((epoch * len(parts) + step) / (epochs * len(parts)))
            found = loss(index, rng)
            optimiser.zero_grad()
            found.backward()
            optimiser.step()
            losses.append(found.detach())
            means = functools.partial(_mean, measure, losses)
            work.step(epoch, epochs, step + 1, len(parts), len(index), means)
        network.eval()
        name, value = score()
        if best is None or value <= best:
            best, kept = value, copy.deepcopy(network.state_dict())
        work.log(epoch + 1, epochs, {"epoch": epoch + 1, **_mean(measure, losses), name: value})
        tensors = {f"network.{k}": v for k, v in network.state_dict().items()}
        tensors |= {f"optimiser.{k}": v for k, v in tensors_of(optimiser).items()}
        work.checkpoint(tensors | {f"kept.{k}": v for k, v in kept.items()}, epoch=epoch + 1, best=best)
    network.load_state_dict(kept)
    network.eval()


def _mean(measure, losses):
    return measure(torch.stack(losses).mean())


def _under(prefix, tensors):
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
