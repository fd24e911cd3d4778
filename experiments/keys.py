"""The key of a batch: its angles, where b comes from, and whether a and b change places."""

from dataclasses import dataclass

import torch

import cvkernels.functional as F
from experiments.seeds import TURN, angles, partners
from models.sources import Bank, equal_norm_noise


@dataclass
class Scheme:
    """How keys are drawn: public, as the network's weights are; the draws are the secret.

    Args:
        b: `'image'`: another image of the batch; `'both'`: likewise, in pairs of which both are decoded; `'noise'`:
            Gaussian, of each sample's norm; `'bank'`: one of the stored features.
        swap: a and b change places at random, and the decoder knows.
        bank: `[M, C, h, w]` stored features, where they are drawn from; a tensor, or None before there are any.
    """

    b: str = "image"
    swap: bool = False
    bank: torch.Tensor | None = None

    def draw(self, n, rng, shards=1):
        """The key of a batch of n, on the CPU: `theta` [n] (of pairs [n/2]), `partner` [n], and `swap` where it is
        used.

        Args:
            shards: how many processes the batch is cut between; a partner is always one of the same shard.
        """
        rows = n // 2 if self.b == "both" else n
        parts = torch.arange(n).tensor_split(shards)
        drawn = {
            "theta": angles(rows, rng=rng),
            "partner": torch.cat([part[0] + partners(len(part), rng) for part in parts]),
        }
        if self.swap:
            drawn["swap"] = torch.randint(0, 2, (rows,), generator=rng) == 1
        return drawn

    def other(self, drawn):
        """What a `SplitModel` takes for b under this key."""
        if self.b == "noise":
            return equal_norm_noise  # from torch's own generator, which the step has seeded
        if self.b == "bank":
            return Bank(self.bank)
        return drawn["partner"]

    def arguments(self, drawn):
        """What a keyed model's `forward` takes after the images."""
        swap = drawn.get("swap")
        return (drawn["theta"], swap) if self.b == "both" else (drawn["theta"], self.other(drawn), swap)

    def conceal(self, a, rng):
        """Features `[N, C, h, w]` under fresh keys: (what the cloud sees, planar; the angles `[N]`; swap or None).

        In pairs (`'both'`) image n crosses with image n + N/2, and once: the second one's row is what crossed with its
        parts exchanged, i·conj(e^{iθ}(a + ib)) = e^{-iθ}(b + ia), which is b under the angle -θ beside a. Of an odd
        number the first crosses twice.
        """
        if self.b == "both":
            return self._conceal_pairs(a, rng)
        theta = angles(len(a), rng=rng, device=a.device)
        partner = partners(len(a), rng, a.device)
        b = self.other({"partner": partner})
        b = a[b] if isinstance(b, torch.Tensor) else b(a, rng)
        swap = (torch.randint(0, 2, (len(a),), generator=rng) == 1).to(a.device) if self.swap else None
        if swap is not None:
            chosen = swap.view(-1, 1, 1, 1)
            a, b = torch.where(chosen, b, a), torch.where(chosen, a, b)
        return F.rotate(a, b, theta), theta, swap

    def _conceal_pairs(self, a, rng):
        n = len(a)
        first, second = torch.cat((a, a[: n % 2])).chunk(2)
        theta = angles(len(first), rng=rng, device=a.device)
        swap = (torch.randint(0, 2, (len(first),), generator=rng) == 1).to(a.device) if self.swap else None
        if swap is not None:
            chosen = swap.view(-1, 1, 1, 1)
            first, second = torch.where(chosen, second, first), torch.where(chosen, first, second)
            swap = swap.repeat(2)[:n]
        z = F.rotate(first, second, theta)
        return torch.cat((z, z.flip(1)))[:n], torch.cat((theta, (TURN - theta).remainder(TURN)))[:n], swap


def scheme_of(settings):
    return Scheme(settings.b, settings.swap)
