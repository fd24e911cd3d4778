"""What a step of training takes, counted without taking it."""

import pytest
import torch

from experiments import memory
from experiments.settings import override, preset


def test_what_is_alive_at_once_is_counted():
    kilobyte = torch.empty(256, device="meta")
    with memory.Alive() as alive:
        one = kilobyte + 1  # what was there before, and this
        assert alive.now == alive.peak == 2048
        two = one.view(16, 16).exp()  # a view takes nothing
        del one
        assert alive.peak == 3072
        two = two + 1
        two = two + 1  # the first of the three is gone: again three at once
    assert alive.peak == 3072


def test_bytes_grow_with_the_batch_and_shrink_with_processes():
    few = preset("report")
    many = override(few, ["batch=256"])
    assert 1.8 < memory.step(many, "cifar10") / memory.step(few, "cifar10") < 2
    assert memory.step(many, "cifar10", processes=2) == memory.step(few, "cifar10")


@pytest.mark.parametrize("name", ["report", "authors"])
def test_vgg_trains_within_seven_gigabytes(name):
    settings = override(preset(name, "celeba", "vgg16"), ["network=vgg16"])
    assert memory.step(settings, "celeba") < 6.5 * 2**30  # the rest for what is not counted
