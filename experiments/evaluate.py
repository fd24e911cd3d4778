"""What a trained network answers: logits under fresh keys, and how many of them are wrong."""

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from experiments.data.images import to_input
from experiments.seeds import generator, number

AT_ONCE = 500  # images of 32x32 in one batch where nothing is trained


def at_once(images):
    """How many of these images fit one batch where nothing is trained."""
    return fitting(*images.pixels.shape[-2:])


def fitting(height, width):
    """How many samples of this size fit one batch where nothing is trained."""
    return max(2, AT_ONCE * 32 * 32 // (height * width))


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


def stored(model, images, settings, seed):
    """Features `[M, C, h, w]` of the first `settings.bank` of these images in an order of their own: a bank of b."""
    take = torch.randperm(len(images), generator=generator(seed, "bank"))[: settings.bank]
    training = model.training
    model.eval()
    with torch.no_grad():
        found = [model.encode(to_input(images.batch(part).pixels)) for part in take.split(at_once(images))]
    model.train(training)
    return torch.cat(found)


def logits(model, images, scheme, seed, *purpose):
    """Logits `[N, outputs]`, in inference mode, under keys that `scheme` draws for this purpose."""
    rng = generator(seed, "keys", *purpose)
    model.eval()
    parts = []
    dtype = next(model.parameters()).dtype
    with torch.inference_mode():
        for index in batches(len(images), at_once(images)):
            if model.keyed and scheme.b == "both" and len(index) % 2:  # the first crosses twice, and is counted once
                index = torch.cat((index, index[:1]))
            x = to_input(images.batch(index).pixels).to(dtype)
            torch.manual_seed(number(rng))  # what noise the network itself draws
            key = ()
            if model.keyed:
                key = scheme.arguments({k: t.to(x.device) for k, t in scheme.draw(len(x), rng).items()})
            parts.append(model(x, *key))
    out = torch.cat(parts)
    return out[: len(images)]


def error(model, images, scheme, seed, *purpose):
    """(share of wrong answers, mean cross-entropy in nats); of attributes, the share of wrong decisions."""
    out = logits(model, images, scheme, seed, *purpose)
    return wrong(out, images.labels), criterion(out, images.labels).item()


def wrong(out, labels):
    """The share of wrong classes, or of wrong yes-or-no decisions."""
    answers = out > 0 if labels.ndim == 2 else out.argmax(1)
    return (answers != labels).double().mean().item()


def criterion(out, labels):
    """Cross-entropy of classes `[N]`; of attributes `[N, A]` the binary one, on logits."""
    if labels.ndim == 2:
        return binary_cross_entropy_with_logits(out, labels)
    return cross_entropy(out, labels)
