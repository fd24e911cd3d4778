"""Features of more than 2^31 elements: the first and the last samples come out as they do alone."""

import os

import pytest
import torch

import cvkernels.functional as F
from tests.close import assert_close
from tests.conftest import GPU

DEVICE = "cuda" if GPU else "cpu"
SHAPE = (33, 2, 64, 720, 720)  # 2.19e9 elements, 8.2 GiB in float32
NEEDED = 6 * 4 * torch.Size(SHAPE).numel()  # input, output, both gradients, and what a reduction keeps

CALLS = {
    "rotate": lambda z, theta: F.rotate(z[:, 0], z[:, 1], theta),
    "rotate_phase": F.rotate_phase,
    "unrotate": F.unrotate,
    "magnitude_relu": lambda z, theta: F.magnitude_relu(z),
    "magnitude_relu-channel_mean": lambda z, theta: F.magnitude_relu(z, "channel_mean"),
    "magnitude_batch_norm": lambda z, theta: F.magnitude_batch_norm(z, torch.ones(z.shape[2], device=z.device)),
    "batch_norm_relu": lambda z, theta: F.batch_norm_relu(z, torch.ones(z.shape[2], device=z.device)),
    "real_batch_norm_relu": lambda z, theta: F.real_batch_norm_relu(
        z.flatten(1, 2), *(torch.full((2 * z.shape[2],), value, device=z.device) for value in (0.0, 1.0))
    ),
    "magnitude_max_pool2d": lambda z, theta: F.magnitude_max_pool2d(z, 2),
}


def free() -> int:
    return torch.cuda.mem_get_info()[0] if GPU else os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def drawn():
    """The same numbers in every sample but for a factor, so that only three samples need a second computation."""
    one = torch.randn(1, *SHAPE[1:], device=DEVICE)
    z = one * torch.linspace(0.5, 1.5, SHAPE[0], device=DEVICE).view(-1, 1, 1, 1, 1)
    return z.requires_grad_(), torch.linspace(0.1, 6.0, SHAPE[0], device=DEVICE)


@pytest.mark.large
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_beyond_32_bits(call):
    if free() < NEEDED:
        pytest.skip(f"{free() / 2**30:.0f} GiB free, {NEEDED / 2**30:.0f} needed")
    torch.utils.deterministic.fill_uninitialized_memory = False  # minutes of writing NaN
    z, theta = drawn()
    y = call(z, theta)
    (grad,) = torch.autograd.grad(y, z, y.detach())
    for n in (0, SHAPE[0] // 2, SHAPE[0] - 1):
        alone = z[n : n + 1].detach().clone().requires_grad_()
        want = call(alone, theta[n : n + 1])
        assert_close(y[n : n + 1], want)
        assert_close(grad[n : n + 1], torch.autograd.grad(want, alone, want.detach())[0])


@pytest.mark.large
def test_batch_statistics_beyond_32_bits():
    if free() < NEEDED:
        pytest.skip(f"{free() / 2**30:.0f} GiB free, {NEEDED / 2**30:.0f} needed")
    torch.utils.deterministic.fill_uninitialized_memory = False
    z, _ = drawn()
    power = torch.stack([sample.detach().double().square().sum(0).mean((1, 2)) for sample in z]).mean(0)
    values = z.numel() // (2 * z.shape[2])
    assert_close(F.magnitude_power(z.detach()) / values, power, name="magnitude_power")
    for norm in (F.magnitude_batch_norm, F.batch_norm_relu):
        running = torch.zeros(SHAPE[2], device=DEVICE)
        y = norm(z, running, training=True, momentum=1.0)
        assert_close(running, power, name=norm.__name__)
        (grad,) = torch.autograd.grad(y, z, torch.ones(1, device=DEVICE).expand_as(y))
        assert grad[-1].isfinite().all() and grad[-1].any()
