"""Measures against values worked out by hand."""

import math

import pytest
import torch

from experiments import metrics


def images(value, n=2, side=16):
    return torch.full((n, 3, side, side), value, dtype=torch.float64)


def test_errors_of_a_constant_difference():
    image, target = images(0.75), images(0.25)
    assert metrics.rmse(image, target) == 0.5
    assert metrics.mae(image, target) == 0.5
    assert metrics.psnr(image, target) == pytest.approx(20 * math.log10(2))


def test_rmse_is_over_all_pixels_and_psnr_per_image():
    target = images(0.0)
    image = target.clone()
    image[0] = 0.1
    image[1] = 0.3
    assert metrics.rmse(image, target) == pytest.approx(math.sqrt((0.01 + 0.09) / 2))
    assert metrics.psnr(image, target) == pytest.approx((20 - 20 * math.log10(0.3)) / 2)


def test_psnr_of_the_same_is_infinite():
    assert metrics.psnr(images(0.5), images(0.5)) == math.inf


def test_ssim_of_the_same_is_one():
    image = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    assert metrics.ssim(image, image) == pytest.approx(1)


def test_ssim_of_constants_is_the_luminance_term():
    c1 = 0.01**2
    by_hand = (2 * 0.2 * 0.6 + c1) / (0.2**2 + 0.6**2 + c1)
    assert metrics.ssim(images(0.2), images(0.6)) == pytest.approx(by_hand)


def test_ssim_of_one_window_by_hand():
    """11x11 images are one window each: weighted moments, with the weights written out."""
    x, y = torch.rand(2, 1, 1, 11, 11, dtype=torch.float64)
    weight = torch.tensor([[math.exp(-((i - 5) ** 2 + (j - 5) ** 2) / 4.5) for j in range(11)] for i in range(11)])
    weight = (weight.double() / weight.double().sum()).expand(1, 1, 11, 11)
    mx, my = (weight * x).sum(), (weight * y).sum()
    vx, vy, cov = (weight * (x - mx) ** 2).sum(), (weight * (y - my) ** 2).sum(), (weight * (x - mx) * (y - my)).sum()
    by_hand = (2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
    assert metrics.ssim(x, y) == pytest.approx(by_hand.item())


def test_a_set_is_its_parts_together():
    image, target = torch.rand(7, 3, 16, 16, dtype=torch.float64), torch.rand(7, 3, 16, 16, dtype=torch.float64)

    def errors(i, t):
        return metrics.image_errors(i, t) | metrics.published_units(i, t, metrics.ROMECH["cifar10"])

    parts = [(len(i), errors(i, t)) for i, t in zip(image.split(3), target.split(3), strict=True)]
    assert metrics.together(parts) == pytest.approx(errors(image, target))


def test_published_units():
    image, target = images(0.6), images(0.5)
    units = metrics.published_units(image, target, std=(0.25, 0.5, 0.2))
    assert units["paper"] == pytest.approx(0.1)
    assert units["report"] == pytest.approx(0.2**2)  # -1..1 is twice as wide
    assert units["romech"] == pytest.approx((0.4 + 0.2 + 0.5) / 3)
    assert metrics.published_units(image, target).keys() == {"paper", "report"}  # romech has no digits
    cifar = metrics.published_units(image, target, metrics.ROMECH["cifar10"])["romech"]
    assert cifar == pytest.approx((0.1 / 0.2470 + 0.1 / 0.2435 + 0.1 / 0.2616) / 3)


def test_angle_errors_around_the_border():
    guess = torch.tensor([0.25, 3.0, 0.0], dtype=torch.float64)
    theta = torch.tensor([2 * torch.pi - 0.25, 2.5, torch.pi], dtype=torch.float64)
    errors = metrics.angle_errors(guess, theta)
    assert errors["raw"].tolist() == pytest.approx([2 * math.pi - 0.5, 0.5, math.pi])
    assert errors["circular"].tolist() == pytest.approx([0.5, 0.5, math.pi])


def test_control_is_half_the_mean_image():
    assert metrics.control(0.125, 0.25)
    assert not metrics.control(0.126, 0.25)


def test_law_error_sees_a_bias_and_nothing_else():
    z, theta = torch.randn(7, 2, 3, 4, 4, dtype=torch.float64), torch.linspace(0.3, 6, 7, dtype=torch.float64)
    assert metrics.law_error(lambda z: 2 * z, z, theta) == pytest.approx(0)
    # |e^{iθ}z + 1+i - e^{iθ}(z + 1+i)| = |1+i||1 - e^{iθ}|, largest where θ is nearest to π
    want = (
        math.sqrt(2) * (1 - torch.exp(1j * theta)).abs().max() / (torch.complex(z[:, 0], z[:, 1]) + 1 + 1j).abs().max()
    )
    assert metrics.law_error(torch.zeros_like, z, theta) == 0
    assert metrics.law_error(lambda z: z + 1, z, theta) == pytest.approx(want.item())
