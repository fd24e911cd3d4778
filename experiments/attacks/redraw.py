"""The U-Net that redraws images from features, and how it is trained: what the inversion attacks have in common."""

import torch
from torch.nn.functional import mse_loss

from experiments.attacks.knowledge import Features
from experiments.attacks.learn import learn
from experiments.evaluate import batches, fitting
from experiments.metrics import rmse, together
from experiments.seeds import generator, initialising
from models.attackers import UNet


def train_unet(view, knowledge, settings, seed, name, work):
    """Train on the adversary's own images; keep the epoch with the lowest RMSE on its own validation images.

    Args:
        view: (features a `[n, C, h, w]` of own images, generator) -> what the U-Net reads of them, `[n, C', h, w]`;
            it draws fresh keys at each call.
        knowledge: with `encode`, `train` and `val`.
    Returns:
        The U-Net, in inference mode.
    """
    train, val = knowledge.train, knowledge.val
    a_train, a_val = (Features(knowledge.encode, images) for images in (train, val))
    with torch.no_grad():
        channels = view(a_train[torch.arange(2)], generator(seed, name, "shape")).shape[1]
    with initialising(seed, name):
        shape = channels, settings.unet_width, train.pixels.shape[-1], train.pixels.shape[1]
        unet = UNet(*shape, shared_kernels=settings.shared_kernels)
    # width 8, batches of 32, two cores: 580 images a second channels-last, 110 contiguous
    unet = unet.to(train.labels.device, memory_format=torch.channels_last)

    def loss(index, rng):
        with torch.no_grad():
            seen = view(a_train[index], rng)
        return mse_loss(unet(_lay(seen)), train.batch(index).pixels)

    def score():
        rng, found = generator(seed, name, "validation"), []
        for index in a_val.parts():
            with torch.no_grad():
                seen = view(a_val[index], rng)
            found.append((len(index), {"rmse": rmse(draw(unet, seen), val.batch(index).pixels)}))
        return "val_rmse", together(found)["rmse"]

    def rate(share):
        return settings.attack_lr * (1 - share if settings.attack_decay else 1)

    def measure(mean_loss):
        return {"train_rmse": mean_loss.sqrt().item()}

    much = settings.attack_epochs, settings.attack_batch
    learn(unet, len(train), *much, rate, loss, measure, score, work, seed, name)
    return unet


def draw(unet, seen, index=None, read=None):
    """Images `[n, 3, S, S]`, cut to 0..1, which every adversary knows pixels to be.

    Args:
        seen: features `[N, ...]`, wherever they lie.
        index: which of them, `[n]`; all, if not given.
        read: what the U-Net reads of them; themselves, if not given.
    """
    unet.eval()
    device = next(unet.parameters()).device
    index = torch.arange(len(seen)) if index is None else index
    found = []
    with torch.no_grad():
        for part in batches(len(index), fitting(unet.image_side, unet.image_side)):
            some = seen[index[part]].to(device)
            found.append(unet(_lay(read(some) if read else some)))
    return torch.cat(found).clamp(0, 1)


def _lay(features):
    return features.contiguous(memory_format=torch.channels_last)
