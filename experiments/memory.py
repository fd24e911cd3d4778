"""What a step of training takes of memory, counted on the meta device before anything is read or allocated."""

from dataclasses import replace
from types import SimpleNamespace

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from experiments import gan
from experiments.data.sets import side_of
from experiments.keys import scheme_of
from experiments.networks import build_critic, on_meta
from experiments.steps import Phases, Walk, draw, plainly

META = torch.device("meta")


class Alive(TorchDispatchMode):
    """Bytes of what is alive, and the most there ever were, of the tensors that operations give while it is on."""

    def __init__(self):
        super().__init__()
        self.sizes, self.now, self.peak = {}, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for t in tree_iter((args, kwargs, found)):  # what was there before the mode is met as an argument
            if isinstance(t, torch.Tensor):
                storage = StorageWeakRef(t.untyped_storage())
                if storage not in self.sizes:
                    self.sizes[storage] = t.untyped_storage().nbytes()
                    self.now += self.sizes[storage]
        if self.now > self.peak:  # as if nothing had gone since it was looked at last
            self.sizes = {s: size for s, size in self.sizes.items() if not s.expired()}
            self.now = sum(self.sizes.values())
            self.peak = max(self.peak, self.now)
        return found


def step(settings, name, processes=1):
    """Bytes that training takes at the peak of a batch of its own size, in float32: weights, gradients, the
    optimisers' state and what is kept for the backward pass, of plain torch's operations; without the images, what
    kernels use inside, and CUDA's own.

    Args:
        name: of the data set, whose pictures' size counts.
        processes: how many the batch is cut between; the bytes are one's. None may have joined the others yet.
    """
    n = max(2, -(-settings.batch // processes) // 2 * 2)
    settings = replace(settings, precision="fp32", b="image" if settings.b == "bank" else settings.b, augment=False)
    side, rng = side_of(name, settings), torch.Generator()
    scheme, alive = scheme_of(settings), Alive()
    with torch.random.fork_rng(devices=[]), alive:
        model = on_meta(settings, SimpleNamespace(name=name, outputs=10)).train()
        walk, wgan = Walk(model, scheme), None
        pixels = torch.empty(n, 3, side, side, device=META)
        if model.keyed and settings.adversary != "off":
            with torch.no_grad():
                features = model.encode(pixels[:2]).shape[1:]
            wgan = gan.Wgan(walk, build_critic(settings, tuple(features), 0).to(META), settings)
        make = torch.optim.SGD if settings.optimiser == "sgd" else torch.optim.Adam
        more = {"momentum": settings.momentum} if settings.optimiser == "sgd" else {}
        phases = Phases(walk, walk, make(model.parameters(), lr=0.1, **more), wgan, settings, META)
        batch = {k: t.to(META) for k, t in draw(settings, scheme, n, rng).items()}
        labels = torch.zeros(n, dtype=torch.int64, device=META)
        batch |= {"pixels": pixels, "labels": labels, "weight": torch.ones((), device=META)}
        everyones = (0, 1, 2) if settings.schedule == "1:1:7" else (0, settings.generator_every - 1)
        for turn in everyones:
            phases.step(batch, turn, plainly)
    return alive.peak
