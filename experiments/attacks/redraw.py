"""The U-Net that redraws images from features, and how it is trained: what the inversion attacks have in common."""

import copy

import torch
from torch.nn.functional import mse_loss

from experiments.attacks.knowledge import encode_all
from experiments.evaluate import AT_ONCE, batches
from experiments.metrics import rmse
from experiments.seeds import generator, initialising
from models.attackers import UNet


def train_unet(view, knowledge, settings, seed, name, log):
    """Train on the adversary's own images; keep the epoch with the lowest RMSE on its own validation images.

    Args:
        view: (features a `[n, C, h, w]` of own images, generator) -> what the U-Net reads of them, `[n, C', h, w]`;
            it draws fresh keys at each call.
        knowledge: with `encode`, `train` and `val`.
        log: called after each epoch with (epoch, epochs, metrics).
    Returns:
        The U-Net, in inference mode.
    """
    a_train, a_val = (encode_all(knowledge.encode, images) for images in (knowledge.train, knowledge.val))
    target, target_val = knowledge.train.unit().pixels, knowledge.val.unit().pixels
    with torch.no_grad():
        seen_val = view(a_val, generator(seed, name, "validation"))
    with initialising(seed, name):
        shape = seen_val.shape[1], settings.unet_width, target.shape[-1], target.shape[1]
        unet = UNet(*shape, shared_kernels=settings.shared_kernels)
    # width 8, batches of 32, two cores: 580 images a second channels-last, 110 contiguous
    unet = unet.to(target.device, memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(unet.parameters(), lr=settings.attack_lr)
    steps = settings.attack_epochs * len(batches(len(a_train), settings.attack_batch))
    share_left = (lambda step: 1 - step / steps) if settings.attack_decay else (lambda step: 1.0)
    decay = torch.optim.lr_scheduler.LambdaLR(optimiser, share_left)
    best, kept = None, None
    for epoch in range(settings.attack_epochs):
        unet.train()
        rng = generator(seed, name, epoch)
        losses = []
        for index in batches(len(a_train), settings.attack_batch, rng):
            with torch.no_grad():
                seen = view(a_train[index], rng)
            loss = mse_loss(unet(_lay(seen)), target[index])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            decay.step()
            losses.append(loss.detach())
        val = rmse(draw(unet, seen_val), target_val)
        if best is None or val <= best:
            best, kept = val, copy.deepcopy(unet.state_dict())
        train_rmse = torch.stack(losses).mean().sqrt().item()
        log(epoch + 1, settings.attack_epochs, {"epoch": epoch + 1, "train_rmse": train_rmse, "val_rmse": val})
    unet.load_state_dict(kept)
    return unet.eval()


def draw(unet, seen):
    """Images `[N, 3, S, S]`, cut to 0..1, which every adversary knows pixels to be."""
    unet.eval()
    with torch.no_grad():
        return torch.cat([unet(_lay(seen[index])) for index in batches(len(seen), AT_ONCE)]).clamp(0, 1)


def _lay(features):
    return features.contiguous(memory_format=torch.channels_last)
