"""The WGAN that trains the encoder to hide the angle: to its critic, features turned back by a wrong angle should
look real.

min_g max_D  E[D(a)] - E[D(a')],   a' = Re(z e^{-iθ'}),  z = (a + ib) e^{iθ},  θ' fresh        (the paper's objective)
"""

import torch

import cvkernels.functional as F
from experiments.seeds import angles


def turns(settings, step):
    """Which of (task, critic, generator) step on this batch, by the settings' schedule.

    `together`: the task each batch, the critic every `critic_every`-th, the generator every `generator_every`-th, as
    the WGAN's own 5:1. `1:1:7`: in turn, one batch task, one generator, seven critic, as the seed report's code.
    """
    if settings.adversary == "off":
        return True, False, False
    if settings.schedule == "1:1:7":
        turn = step % 9
        return turn == 0, turn >= 2, turn == 1
    return True, step % settings.critic_every == 0, step % settings.generator_every == settings.generator_every - 1


def make_fakes(z, k, rng):
    """Planar z `[N, 2, C, h, w]` -> `[N, k - 1, C, h, w]`: z turned back by k - 1 fresh angles per sample, in one
    read of z."""
    theta_fake = angles(len(z), k - 1, rng=rng, device=z.device)  # [N, K]
    return F.unrotate(z, theta_fake)


def gap(critic, a, fakes):
    """How far apart the critic holds the real from the fake, E[D(a)] - E[D(a')], a scalar."""
    return critic(a).mean() - critic(fakes.flatten(0, 1)).mean()


def gradient_penalty(critic, a, fake, rng):
    """E[(|∇D| - 1)²] on the lines between each a `[N, C, h, w]` and one of its fakes."""
    share = torch.rand(len(a), generator=rng).to(a.device, a.dtype).view(-1, 1, 1, 1)
    between = (share * a + (1 - share) * fake).requires_grad_()
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return (slope.flatten(1).norm(dim=1) - 1).square().mean()


class Wgan:
    """The critic, its optimiser, and the optimiser that moves the encoder against it.

    Args:
        model: a keyed `SplitModel`; only its encoder is trained here.
        critic: real features -> `[N, 1]`.
    """

    def __init__(self, model, critic, settings):
        self.model = model
        self.critic = critic
        self.settings = settings
        self.encoder_parameters = list(model.encoder.parameters())
        if settings.adversary == "clip":
            self.critic_optimiser = torch.optim.RMSprop(critic.parameters(), lr=settings.clip_lr)
            self.generator_optimiser = torch.optim.RMSprop(self.encoder_parameters, lr=settings.clip_lr)
        else:
            betas = (0.5, 0.999)
            self.critic_optimiser = torch.optim.Adam(critic.parameters(), lr=settings.critic_lr, betas=betas)
            self.generator_optimiser = torch.optim.Adam(self.encoder_parameters, lr=settings.generator_lr, betas=betas)

    def critic_step(self, a, z, rng):
        """Teach the critic on features `[N, C, h, w]` and what the cloud saw of them; returns the gap, a detached
        scalar."""
        a, z = a.detach(), z.detach()
        fakes = make_fakes(z, self.settings.k, rng)
        held = gap(self.critic, a, fakes)
        loss = -held
        if self.settings.adversary == "penalty":
            loss = loss + self.settings.penalty * gradient_penalty(self.critic, a, fakes[:, 0], rng)
        self.critic_optimiser.zero_grad()
        loss.backward()
        self.critic_optimiser.step()
        if self.settings.adversary == "clip":
            with torch.no_grad():
                for p in self.critic.parameters():
                    p.clamp_(-self.settings.clip, self.settings.clip)
        return held.detach()

    def encoder_gradients(self, x, theta, b, rng):
        """The adversarial gradient of each encoder parameter, in order; gradients flow through a, b and the fakes."""
        a = self.model.encode(x)
        fakes = make_fakes(self.model.conceal(a, theta, b), self.settings.k, rng)
        return torch.autograd.grad(gap(self.critic, a, fakes), self.encoder_parameters)

    def generator_step(self, x, theta, b, rng):
        """Move the encoder so that real and fake features lie closer together."""
        for p, grad in zip(self.encoder_parameters, self.encoder_gradients(x, theta, b, rng), strict=True):
            p.grad = grad
        self.generator_optimiser.step()
        self.generator_optimiser.zero_grad()
