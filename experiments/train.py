"""The classifier's loop: the task on each batch and, for a keyed network, the WGAN beside it."""

import copy

import torch
from torch.nn.functional import cross_entropy

from experiments import gan
from experiments.data import to_input
from experiments.seeds import angles, generator, initialising, partners
from experiments.settings import modulus
from models.critic import LeNetCritic
from models.lenet import FEATURES, lenet

AT_ONCE = 500  # images in one batch where nothing is trained


def build(form, settings, classes, seed):
    """A LeNet of this form with weights drawn for this seed."""
    with initialising(seed, "network", form):
        choices = {name: getattr(settings, name) for name in ("generator", "weights", "detach_b")}
        return lenet(form, classes, c=modulus(settings), **choices)


def batches(n, size, rng=None):
    """Index tensors that cover 0..n-1: shuffled, without a last batch of one, if `rng` is given; else in order,
    where a last batch of one joins the one before it."""
    order = torch.arange(n) if rng is None else torch.randperm(n, generator=rng)
    parts = list(order.split(size))
    if len(parts[-1]) == 1 and len(parts) > 1:
        last = parts.pop()
        if rng is None:
            parts[-1] = torch.cat((parts[-1], last))
    return parts


def logits(model, images, seed, *purpose):
    """Logits `[N, classes]`, in inference mode, under keys drawn for this purpose."""
    rng = generator(seed, "keys", *purpose)
    model.eval()
    parts = []
    with torch.no_grad():
        for index in batches(len(images), AT_ONCE):
            x = to_input(images.pixels[index])
            key = (angles(len(x), rng=rng, device=x.device), partners(len(x), rng, x.device)) if model.keyed else ()
            parts.append(model(x, *key))
    return torch.cat(parts)


def error(model, images, seed, *purpose):
    """(share of wrong classes, mean cross-entropy in nats)."""
    out = logits(model, images, seed, *purpose)
    wrong = (out.argmax(1) != images.labels).double().mean().item()
    return wrong, cross_entropy(out, images.labels).item()


def optimiser(parameters, settings):
    if settings.optimiser == "sgd":
        return torch.optim.SGD(
            parameters, lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
        )
    return torch.optim.Adam(parameters, lr=settings.lr, weight_decay=settings.weight_decay)


def train(model, side, settings, seed, log):
    """Train on `side.train`; keep the weights of the epoch with the lowest error (then loss) on `side.val`.

    Args:
        model: on the device of `side`'s images.
        log: called after each epoch with (epoch, epochs, metrics).
    Returns:
        The metrics of the epoch kept.
    """
    device = side.train.labels.device
    task = optimiser(model.parameters(), settings)
    decay = torch.optim.lr_scheduler.MultiStepLR(task, list(settings.milestones))
    wgan = None
    if model.keyed and settings.adversary != "off":
        with initialising(seed, "critic"):
            wgan = gan.Wgan(model, LeNetCritic(*FEATURES[:2]).to(device), settings)
    best, kept, step = None, None, 0
    for epoch in range(settings.epochs):
        model.train()
        rng = generator(seed, "train", epoch)
        losses, gaps = [], []
        for index in batches(len(side.train), settings.batch, rng):
            step_batch(model, side.train[index], task, wgan, gan.turns(settings, step), rng, losses, gaps)
            step += 1
        decay.step()
        val_error, val_loss = error(model, side.val, seed, "validation")
        metrics = {"epoch": epoch + 1, "val_error": val_error, "val_loss": val_loss}
        metrics |= {name: torch.stack(v).mean().item() for name, v in (("loss", losses), ("critic_gap", gaps)) if v}
        if best is None or (val_error, val_loss) <= best:
            best, kept = (val_error, val_loss), (metrics, copy.deepcopy(model.state_dict()))
        log(epoch + 1, settings.epochs, metrics)
    model.load_state_dict(kept[1])
    return kept[0]


def step_batch(model, batch, task, wgan, turns, rng, losses, gaps):
    """One batch: a task step, a critic step, a generator step, each where its turn is; appends what they measured."""
    x = to_input(batch.pixels)
    if not model.keyed:
        loss = cross_entropy(model(x), batch.labels)
        _descend(task, loss, losses)
        return
    do_task, do_critic, do_generator = turns if wgan else (True, False, False)
    theta, b = angles(len(x), rng=rng, device=x.device), partners(len(x), rng, x.device)
    a = model.encode(x)
    z = model.conceal(a, theta, b)
    if do_task:
        _descend(task, cross_entropy(model.reveal(model.process(z), theta), batch.labels), losses)
    if do_critic:
        gaps.append(wgan.critic_step(a, z, rng))
    if do_generator:
        wgan.generator_step(x, theta, b, rng)


def _descend(task, loss, losses):
    task.zero_grad()
    loss.backward()
    task.step()
    losses.append(loss.detach())
