"""VGG-16: its size by hand, the law, and one step at 224x224."""

import pytest
import torch

from models.cost import multiply_adds, parameters
from models.vgg import FEATURES, vgg16
from tests.models.steps import assert_law, one_step

IMAGE = (3, 224, 224)
ENCODER = [(3, 64, 224), (64, 64, 224), (64, 128, 112), (128, 128, 112), (128, 256, 56), (256, 256, 56), (256, 256, 56)]
PROCESSOR = [(256, 512, 28), (512, 512, 28), (512, 512, 28), (512, 512, 14), (512, 512, 14), (512, 512, 14)]
LINEAR = [(512 * 7 * 7, 4096), (4096, 4096), (4096, 200)]


def kernels(plan):
    return sum(9 * i * o for i, o, *_ in plan)


def biases(plan):
    return sum(o for _, o, *_ in plan)


def meta(*args, **options):
    with torch.device("meta"):
        return vgg16(*args, **options)


def test_parameters_by_hand():
    encoder, decoder = kernels(ENCODER) + biases(ENCODER), sum(i * o + o for i, o in LINEAR)
    processor = kernels(PROCESSOR)
    assert tuple(parameters(meta("original")).values()) == (encoder, processor + biases(PROCESSOR), decoder)
    assert tuple(parameters(meta()).values()) == (encoder, 2 * processor, decoder)
    assert tuple(parameters(meta(weights="real")).values()) == (encoder, processor, decoder)
    assert parameters(meta("layers"))["encoder"] == encoder + 9 * 256 * 256


def test_original_is_the_138_357_544_parameters_everyone_knows():
    assert sum(parameters(meta("original", 1000)).values()) == 138_357_544


def test_multiply_adds_by_hand():
    def convolutions(plan):
        return sum(9 * i * o * side * side for i, o, side in plan)

    real = (convolutions(ENCODER), convolutions(PROCESSOR), sum(i * o for i, o in LINEAR))
    assert tuple(multiply_adds(meta("original"), IMAGE).values()) == real
    assert tuple(multiply_adds(meta(), IMAGE).values()) == (real[0], 4 * real[1], real[2])


def test_what_crosses_and_what_comes_back():
    model = meta()
    a = model.encode(torch.empty(1, *IMAGE, device="meta"))
    assert a.shape == (1, *FEATURES)
    assert model.process(torch.stack((a, a), 1)).shape == (1, 2, 512, 7, 7)


def test_law():
    assert_law(vgg16(weights="real").processor, (256, 8, 8), batches=(2,))


@pytest.mark.parametrize("form", ["original", "complex"])  # the others add to these what AlexNet's tests add too
def test_one_step(form):
    one_step(vgg16(form), IMAGE, 200, n=1)
