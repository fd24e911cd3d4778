"""z / sqrt(E|z|² + eps), and the running power."""

import pytest
import torch

import cvkernels.functional as F
from tests.close import as_planar, assert_close

from .harness import wide
from .suite import KernelSuite, form

OP = "magnitude_batch_norm"


class NormSuite(KernelSuite):
    """What the two operations with batch statistics share."""

    def skip(self, form, size):
        positions = torch.Size((size[0], *size[2:])).numel()
        if positions == 1 and form.kwargs.get("training"):
            return "one value per channel: torch's error, tested in test_too_few_values"
        if positions == 1 and "running_power" not in form.tensors:
            return "one value has modulus 1 after the norm: its gradient is a difference of equal numbers"
        if positions == 0 and "running_power" not in form.tensors:
            return "no values and no running power: nothing to normalise by"


class TestMagnitudeBatchNorm(NormSuite):
    OP = OP
    FORMS = {
        "inference": form("z", "running_power"),
        "inference-weight-eps": form("z", "running_power", "weight", eps=0.1),
        "no-running": form("z"),
        "no-running-weight": form("z", "weight"),
        "training": form("z", "running_power", training=True),
        "training-weight-momentum": form("z", "running_power", "weight", training=True, momentum=0.3, eps=0.1),
        "training-no-running": form("z", "weight", training=True),
    }
    fn = staticmethod(F.magnitude_batch_norm)


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_definition(backend, dtype, training):
    z = (torch.randn(5, 2, 3, 4, 6) + 1).to(dtype).double()
    z = torch.complex(*z.unbind(1))
    running, weight = torch.tensor([0.5, 1.0, 4.0]), torch.tensor([1.0, -2.0, 0.5])
    power = z.abs().square().mean((0, 2, 3)) if training else running.double()
    want = z * (weight / (power + 1e-3).sqrt()).view(3, 1, 1)
    given, w = (t.to(backend.device, dtype) for t in (as_planar(z), weight))
    stat = running.clone().to(backend.device, wide(dtype))
    assert_close(F.magnitude_batch_norm(given, stat, w, training, momentum=0.25, eps=1e-3), want, dtype)
    assert_close(stat, running + 0.25 * (power - running) if training else running, wide(dtype))


@pytest.mark.parametrize("momentum", [0.0, 0.1, 1.0])
def test_running_power_moves_by_momentum(backend, dtype, momentum):
    z = torch.randn(6, 2, 3, 5, dtype=dtype, device=backend.device)
    running = torch.full((3,), 4.0, dtype=wide(dtype), device=backend.device)
    F.magnitude_batch_norm(z, running, training=True, momentum=momentum)
    power = z.double().square().sum(1).mean((0, 2))
    assert_close(running, (1 - momentum) * 4 + momentum * power, wide(dtype))


def test_a_count_of_batches_gives_their_plain_mean(backend, dtype):
    running, count = torch.ones(3, dtype=wide(dtype)), torch.zeros((), dtype=torch.long)
    running, count = running.to(backend.device), count.to(backend.device)
    batches = [torch.randn(4, 2, 3, 5, dtype=dtype, device=backend.device) * (k + 1) for k in range(4)]
    for z in batches:
        count += 1
        F.magnitude_batch_norm(z, running, training=True, momentum=count)
    assert count == 4, "the caller counts"
    powers = torch.stack([z.double().square().sum(1).mean((0, 2)) for z in batches])
    assert_close(running, powers.mean(0), wide(dtype))


def test_running_power_is_unbiased_by_neither_batch_nor_inference(backend):
    """In inference and without training nothing is written, and one sample alone is normalised as in a batch."""
    z = torch.randn(4, 2, 3, 5, device=backend.device)
    running = torch.rand(3, device=backend.device) + 0.5
    before = running.clone()
    every = F.magnitude_batch_norm(z, running)
    assert torch.equal(running, before)
    assert_close(F.magnitude_batch_norm(z[:1], running), every[:1])


@pytest.mark.parametrize("shape", [(1, 2, 3, 1, 1), (1, 2, 3), (0, 2, 3, 4, 4), (2, 2, 3, 0, 4)], ids=str)
def test_too_few_values(backend, shape):
    """torch's wording, which for an empty batch it does not raise itself: a running power would become NaN."""
    with pytest.raises(ValueError) as torchs:
        torch.nn.functional.batch_norm(torch.zeros(1, 3, 1, 1), None, None, training=True)
    running = torch.ones(3, device=backend.device)
    with pytest.raises(ValueError) as ours:
        F.magnitude_batch_norm(torch.zeros(shape, device=backend.device), running, training=True)
    wording = str(torchs.value).split(",")[0]
    assert str(ours.value).startswith(wording) and torch.equal(running, torch.ones_like(running))


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("size", [0.0, 1e-25, 1e18, 1e25], ids=str)
def test_no_nan_from_zero_tiny_and_huge_moduli(backend, size, training):
    z = (torch.randn(4, 2, 3, 5).clamp(-2, 2) * size).to(backend.device).requires_grad_()
    running = torch.ones(3, device=backend.device)
    weight = torch.ones(3, device=backend.device, requires_grad=True)
    y = F.magnitude_batch_norm(z, running, weight, training)
    grads = torch.autograd.grad(y, (z, weight), torch.randn_like(y))
    assert not y.isnan().any() and not running.isnan().any()
    assert not grads[0].isnan().any() and not grads[1].isnan().any()


def test_a_channel_of_zeros_beside_others(backend, dtype):
    z = torch.randn(4, 2, 3, 5, dtype=dtype)
    z[:, :, 1] = 0
    z = z.to(backend.device).requires_grad_()
    y = F.magnitude_batch_norm(z, training=True)
    (grad,) = torch.autograd.grad(y.square().sum(), z)
    assert not y[:, :, 1].any() and not grad[:, :, 1].any() and grad.isfinite().all()


def test_weight_of_another_dtype_than_the_features(backend):
    """Half-precision features have a float32 scale, and a float32 one may have a float64 one: the reference runs."""
    z, weight = torch.randn(4, 2, 3, 5, device=backend.device), torch.rand(3, dtype=torch.float64).to(backend.device)
    want = z.double() * (weight / (z.double().square().sum(1).mean((0, 2)) + 1e-5).sqrt()).view(3, 1)
    assert_close(F.magnitude_batch_norm(z, weight=weight, training=True), want, torch.float32)
