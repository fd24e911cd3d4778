"""The adversary's networks."""

import math

import pytest
import torch

from models.attackers import AnglePredictor, UNet
from models.lenet import FEATURES


def test_unet_has_the_published_number_of_parameters():
    with torch.device("meta"):
        unet = UNet(32, 64)
    assert sum(p.numel() for p in unet.parameters()) == 38_502_723


def test_unet_parameters_by_hand():
    def block(i, o, count=6):  # convolutions with bias, and a scale and an offset per channel
        return (9 * i * o + o) + (count - 1) * (9 * o * o + o) + count * 2 * o

    w = 4
    down = [block(w, 2 * w), block(2 * w, 4 * w), block(4 * w, 8 * w), block(8 * w, 8 * w)]
    up = [block(16 * w, 4 * w), block(8 * w, 2 * w), block(4 * w, w), block(2 * w, w)]
    by_hand = block(12, w, 2) + sum(down) + sum(up) + 3 * w + 3
    assert sum(p.numel() for p in UNet(12, w).parameters()) == by_hand


def test_shared_kernels_are_three_to_a_block():
    shared, usual = UNet(6, 2, shared_kernels=True), UNet(6, 2)
    for part in (*shared.down, *shared.up):
        assert sum(isinstance(m, torch.nn.Conv2d) for m in part.modules()) == 3
    x = torch.randn(2, 6, 14, 14)
    ran = []
    for m in shared.modules():
        if isinstance(m, torch.nn.Conv2d):
            m.register_forward_hook(lambda *_: ran.append(1))
    assert shared(x).shape == usual(x).shape
    assert len(ran) == sum(isinstance(m, torch.nn.Conv2d) for m in usual.modules()) == 2 + 8 * 6 + 1


@pytest.mark.parametrize("side", [8, 14, 16, 32])
def test_unet_draws_images_whatever_the_features_side(side):
    unet = UNet(6, 2)
    out = unet(torch.randn(2, 6, side, side))
    assert out.shape == (2, 3, 32, 32)
    out.sum().backward()
    assert all(p.grad is not None for p in unet.parameters())


def test_unet_output_is_unbounded():
    unet = UNet(6, 2).eval()
    with torch.no_grad():
        unet.head.bias.fill_(7)
        unet.head.weight.zero_()
    assert (unet(torch.randn(2, 6, 14, 14)) == 7).all()


def test_unet_refuses_a_side_it_cannot_halve():
    with pytest.raises(ValueError, match="`image_side` must be a multiple of 16, got 24"):
        UNet(6, 2, image_side=24)


@pytest.mark.parametrize("loss", ["circular", "raw"])
def test_angles_lie_in_one_turn(loss):
    predictor = AnglePredictor(*FEATURES[:2], loss=loss)
    theta = predictor(torch.randn(50, 2, *FEATURES))
    assert theta.shape == (50,)
    assert (theta >= 0).all()
    assert (theta <= 2 * torch.pi).all()


class Constant(torch.nn.Module):
    def __init__(self, *values):
        super().__init__()
        self.values = torch.tensor(values)

    def forward(self, z):
        return self.values.expand(len(z), -1)


def test_circular_loss_does_not_see_the_border():
    z, predictor = torch.zeros(1, 2, *FEATURES), AnglePredictor(*FEATURES[:2])
    predictor.net = Constant(1.0, 0.0)
    assert predictor(z).item() == 0
    assert predictor.loss(z, torch.zeros(1)).item() == 0
    across = predictor.loss(z, torch.tensor([2 * math.pi - 0.25], dtype=torch.float64)).item()
    assert across == pytest.approx(predictor.loss(z, torch.tensor([0.25], dtype=torch.float64)).item())
    assert across == pytest.approx(2 - 2 * math.cos(0.25))
    predictor.net = Constant(0.0, -2.0)
    assert predictor(z).item() == pytest.approx(1.5 * math.pi)


def test_raw_loss_does():
    z, predictor = torch.zeros(1, 2, *FEATURES), AnglePredictor(*FEATURES[:2], loss="raw")
    predictor.net = Constant(0.0)
    assert predictor(z).item() == pytest.approx(math.pi)
    assert predictor.loss(z, torch.tensor([1.0])).item() == pytest.approx(math.pi - 1)
    with pytest.raises(ValueError, match="`loss` must be 'circular' or 'raw', got 'l1'"):
        AnglePredictor(loss="l1")
