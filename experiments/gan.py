"""The WGAN that trains the encoder to hide the angle: to its critic, features turned back by a wrong angle should
look real.

min_g max_D  E[D(a)] - E[D(a')],   a' = Re(z e^{-iθ'}),  z = (a + ib) e^{iθ},  θ' fresh        (the paper's objective)
"""

import functools

import torch

import cvkernels.functional as F


def turns(settings, step):
    """Which of (task, critic, generator) step on this batch, by the settings' schedule.

    `together`: the task each batch, the critic every `critic_every`-th, the generator every `generator_every`-th, as
    the WGAN's own 5:1. `1:1:7`: in turn, one batch task, one generator, seven critic, as the seed report's code.
    A `summed` generator step is part of the task's.
    """
    if settings.adversary == "off":
        return True, False, False
    if settings.generator_step == "summed":
        return True, step % settings.critic_every == 0, False
    if settings.schedule == "1:1:7":
        turn = step % 9
        return turn == 0, turn >= 2, turn == 1
    return True, step % settings.critic_every == 0, step % settings.generator_every == settings.generator_every - 1


def make_fakes(z, theta_fake):
    """Planar z `[N, 2, C, h, w]`, wrong angles `[N, k - 1]` -> `[N, k - 1, C, h, w]`: z turned back by each, in one
    read of z."""
    return F.unrotate(z, theta_fake)


def gap(critic, a, fakes):
    """How far apart the critic holds the real from the fake, E[D(a)] - E[D(a')], a scalar."""
    return critic(a).mean() - critic(fakes.flatten(0, 1)).mean()


def gradient_penalty(critic, a, fake, share):
    """E[(|∇D| - 1)²] on the lines between each a `[N, C, h, w]` and one of its fakes, at `share` `[N]` in 0..1."""
    share = share.to(a.dtype).view(-1, 1, 1, 1)
    between = (share * a + (1 - share) * fake).requires_grad_()
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (slope.flatten(1).norm(dim=1) - 1).square().mean()


class Wgan:
    """The critic, its optimiser, and the optimiser that moves the encoder against it; in float32 whatever the
    classifier's precision is.

    Args:
        walk: a keyed `steps.Walk`; only its encoder is trained here.
        critic: real features -> `[N, 1]`.
        adam, rmsprop: makers of optimisers.
    """

    def __init__(self, walk, critic, settings, adam=torch.optim.Adam, rmsprop=torch.optim.RMSprop):
        self.walk = walk
        self.critic = critic
        self.settings = settings
        self.encoder_parameters = list(walk.model.encoder.parameters())
        if settings.adversary == "clip":
            make, critic_lr, self.generator_lr = rmsprop, settings.clip_critic_lr, settings.clip_generator_lr
        else:
            make = functools.partial(adam, betas=(0.5, 0.999))
            critic_lr, self.generator_lr = settings.critic_lr, settings.generator_lr
        self.critic_optimiser = make(critic.parameters(), lr=critic_lr)
        self.generator_optimiser = make(self.encoder_parameters, lr=self.generator_lr)

    def critic_step(self, a, z, theta_fake, share, weight=1.0):
        """Teach the critic on features `[N, C, h, w]` and what the cloud saw of them (of pairs, N/2 rows); returns the
        gap, a detached scalar.

        Args:
            theta_fake: wrong angles `[N, k - 1]`.   share: where on the lines the gradient is held to 1, `[N]`.
            weight: this process's share of the batch times the number of processes.
        """
        a, z = (t.detach().to(torch.promote_types(t.dtype, torch.float32)) for t in (a, z))
        fakes = make_fakes(z, theta_fake)
        held = gap(self.critic, a, fakes)
        loss = -held
        if self.settings.adversary == "penalty":
            loss = loss + self.settings.penalty * gradient_penalty(self.critic, a[: len(z)], fakes[:, 0], share)
        self.critic_optimiser.zero_grad()
        (loss * weight).backward()
        reduce_gradients(self.critic.parameters())
        self.critic_optimiser.step()
        if self.settings.adversary == "clip":
            with torch.no_grad():
                for p in self.critic.parameters():
                    p.clamp_(-self.settings.clip, self.settings.clip)
        return held.detach()

    def encoder_gradients(self, x, key, theta_fake, weight=1.0):
        """The adversarial gradient of each encoder parameter, in order; gradients flow through a, b and the fakes."""
        a = self.walk.model.encode(x)
        loss = self.encoder_loss(a, self.walk.conceal(a, key), theta_fake)
        return torch.autograd.grad(loss * weight, self.encoder_parameters, materialize_grads=True)

    def encoder_loss(self, a, z, theta_fake):
        """What the encoder lowers, a scalar: the gap, or -E[D(a')]."""
        a, z = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in (a, z))
        fakes = make_fakes(z, theta_fake)
        if self.settings.detach_fakes:
            fakes = fakes.detach()
        if self.settings.generator_loss == "fakes":
            return -self.critic(fakes.flatten(0, 1)).mean()
        return gap(self.critic, a, fakes)

    def generator_step(self, x, key, theta_fake, weight=1.0):
        """Move the encoder so that real and fake features lie closer together."""
        grads = self.encoder_gradients(x, key, theta_fake, weight)
        for p, grad in zip(self.encoder_parameters, grads, strict=True):
            p.grad = laid_out_as(p, grad)
        reduce_gradients(self.encoder_parameters)
        self.generator_optimiser.step()
        self.generator_optimiser.zero_grad()


def laid_out_as(parameter, t):
    """A gradient or an optimiser's moment in its parameter's memory layout: torch's fused optimisers on a CPU pair
    elements by their place in memory, and say nothing where two layouts differ."""
    if t.shape != parameter.shape or t.stride() == parameter.stride():
        return t
    return torch.empty_like(parameter, dtype=t.dtype).copy_(t)


def reduce_gradients(parameters):
    """The mean of each gradient over the processes, where there are several: what DistributedDataParallel does for the
    task, whose hooks a gradient of a gradient would trip over."""
    if not torch.distributed.is_initialized():
        return
    grads = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in grads])
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    for g, mean in zip(grads, flat.split([g.numel() for g in grads]), strict=True):
        g.copy_(mean.view_as(g))
