"""AlexNet: its size by hand, the law, and one step of each form at 224x224 with 40 binary labels."""

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from models.alexnet import CUTS, FEATURES, alexnet
from models.cost import multiply_adds, parameters
from models.forms import FORMS
from tests.models.steps import assert_law, one_step

IMAGE = (3, 224, 224)
# in, out, kernel, side of the map that comes out
ENCODER = {
    "report": [(3, 96, 11, 55), (96, 256, 5, 27), (256, 384, 3, 13)],
    "authors": [(3, 64, 11, 55), (64, 192, 5, 27), (192, 384, 3, 13)],
}
PROCESSOR = {
    "report": [(384, 384, 3, 13), (384, 256, 3, 13)],
    "authors": [(384, 256, 3, 13), (256, 256, 3, 13)],
}
LINEAR = [(9216, 4096), (4096, 4096), (4096, 40)]


def kernels(plan):
    return sum(i * o * k * k for i, o, k, _ in plan)


def biases(plan):
    return sum(o for _, o, *_ in plan)


def multiplied(plan):
    return sum(i * o * k * k * side * side for i, o, k, side in plan)


def meta(*args, **options):
    with torch.device("meta"):
        return alexnet(*args, **options)


@pytest.mark.parametrize("cut", CUTS)
def test_parameters_and_multiply_adds_by_hand(cut):
    encoder, processor = ENCODER[cut], PROCESSOR[cut]
    sizes = [kernels(encoder) + biases(encoder), kernels(processor), sum(i * o + o for i, o in LINEAR)]
    assert list(parameters(meta("complex", cut=cut)).values()) == [sizes[0], 2 * sizes[1], sizes[2]]
    sizes[1] += biases(processor)
    assert list(parameters(meta("original", cut=cut)).values()) == sizes
    costs = [multiplied(encoder), multiplied(processor), sum(i * o for i, o in LINEAR)]
    assert list(multiply_adds(meta("original", cut=cut), IMAGE).values()) == costs
    assert multiply_adds(meta("complex", cut=cut, weights="real"), IMAGE)["processor"] == 2 * costs[1]


def test_the_authors_is_torchvisions():
    assert sum(parameters(meta("original", 1000, "authors")).values()) == 61_100_840


@pytest.mark.parametrize("cut", CUTS)
def test_what_crosses_and_what_comes_back(cut):
    model = meta(cut=cut)
    a = model.encode(torch.empty(1, *IMAGE, device="meta"))
    assert a.shape == (1, *FEATURES)
    assert model.process(torch.stack((a, a), 1)).shape == (1, 2, 256, 6, 6)


@pytest.mark.parametrize("cut", CUTS)
def test_law(cut):
    assert_law(alexnet(cut=cut).processor, (384, 7, 7))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cut", CUTS)
def test_one_step(cut, form):
    labels = torch.randint(2, (2, 40)).float()
    one_step(alexnet(form, cut=cut), IMAGE, 40, task=binary_cross_entropy_with_logits, labels=labels)


def test_what_cannot_be_is_named():
    with pytest.raises(ValueError, match="`cut` must be one of report, authors, got 'paper'"):
        alexnet(cut="paper")
