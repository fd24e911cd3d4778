"""ResNets: their size by hand and as published, the law, and one step of every form."""

import pytest
import torch

from models.cost import multiply_adds, parameters
from models.forms import FORMS
from models.layers import COMPLEX, REAL
from models.resnet import DEPTHS, FEATURES, Block, resnet
from tests.close import assert_close
from tests.models.steps import assert_law, one_step

IMAGE = (3, 32, 32)
# Multiply-adds of the authors' code, millions for one real stream: encoder, processor, decoder
AUTHORS = {
    20: {"alpha": (18.1, 13.0, 9.4), "beta": (18.1, 17.7, 4.7)},
    32: {"alpha": (27.6, 22.4, 18.9), "beta": (27.6, 36.6, 4.7)},
    44: {"alpha": (37.0, 31.9, 28.3), "beta": (37.0, 55.4, 4.7)},
    56: {"alpha": (46.4, 41.3, 37.7), "beta": (46.4, 74.3, 4.7)},
    110: {"alpha": (88.9, 83.8, 80.2), "beta": (88.9, 159.3, 4.7)},
}
TOTAL = {20: "0.27", 32: "0.46", 44: "0.66", 56: "0.85", 110: "1.7"}  # million parameters, as first published


def meta(*args, **options):
    with torch.device("meta"):
        return resnet(*args, **options)


def convolution(i, o):
    return 9 * i * o


def block(i, o):  # kernels; each convolution's norm has a scale and an offset per channel
    return convolution(i, o) + convolution(o, o) + 4 * o


def by_hand(depth, variant, cut):
    """Parameters of the real network: encoder, processor, decoder."""
    n = (depth - 2) // 6
    stem, head = convolution(3, 16) + 2 * 16, 64 * 10 + 10
    encoder = stem + n * block(16, 16)
    middle = [block(16, 32), *[block(32, 32)] * (n - 1), block(32, 64), *[block(64, 64)] * (n - 1)]
    if cut == "authors":
        encoder += middle.pop(0)
    decoder = n - 1 if variant == "alpha" else 1
    return encoder, sum(middle[:-decoder]), sum(middle[-decoder:]) + head


@pytest.mark.parametrize("cut", FEATURES)
@pytest.mark.parametrize("variant", ["alpha", "beta"])
@pytest.mark.parametrize("depth", DEPTHS)
def test_parameters_by_hand(depth, variant, cut):
    counted = tuple(parameters(meta(depth, variant, "original", cut=cut)).values())
    assert counted == by_hand(depth, variant, cut)
    assert f"{sum(counted) / 1e6:.2g}" == TOTAL[depth]


def test_parameters_of_the_other_forms_by_hand():
    encoder, _, decoder = by_hand(20, "alpha", "report")
    kernels = 2 * (16 * 32 + 32 * 32 + 2 * 2 * 32 * 32 + 32 * 64 + 64 * 64) * 9  # no scale, no offset, two parts
    assert tuple(parameters(meta(20)).values()) == (encoder, kernels, decoder)
    assert tuple(parameters(meta(20, weights="real")).values()) == (encoder, kernels // 2, decoder)
    assert parameters(meta(20, generator="linear"))["encoder"] == encoder + convolution(16, 16)
    assert parameters(meta(20, form="layers"))["encoder"] == encoder + convolution(16, 16)
    assert parameters(meta(20, form="noisy")) == parameters(meta(20, form="original"))


@pytest.mark.parametrize("variant", ["alpha", "beta"])
@pytest.mark.parametrize("depth", DEPTHS)
def test_multiply_adds_as_published_and_by_hand(depth, variant):
    n = (depth - 2) // 6
    counted = multiply_adds(meta(depth, variant, "original", cut="authors")).values()
    assert [round(c / 1e6, 1) for c in counted] == pytest.approx(AUTHORS[depth][variant])
    stem, whole = 3 * 16 * 9 * 32 * 32, 2 * 16 * 16 * 9 * 32 * 32  # a block costs the same in every stage
    growing = (16 * 32 + 32 * 32) * 9 * 16 * 16  # and one that halves its map the same in both
    middle = 2 * growing + (n - 1 if variant == "alpha" else 2 * n - 3) * whole
    decoder = (n - 1 if variant == "alpha" else 1) * whole + 64 * 10
    for cut, moved in (("report", 0), ("authors", growing)):
        counted = multiply_adds(meta(depth, variant, "original", cut=cut)).values()
        assert tuple(counted) == (stem + n * whole + moved, middle - moved, decoder)


def test_multiply_adds_of_complex_layers():
    real = multiply_adds(meta(20, form="original"))
    assert multiply_adds(meta(20)) == {**real, "processor": 4 * real["processor"]}
    assert multiply_adds(meta(20, weights="real")) == {**real, "processor": 2 * real["processor"]}
    extra = 16 * 16 * 9 * 32 * 32
    assert multiply_adds(meta(20, form="layers")) == {**real, "encoder": real["encoder"] + extra}


@pytest.mark.parametrize("cut", FEATURES)
@pytest.mark.parametrize("variant", ["alpha", "beta"])
def test_what_crosses_and_what_comes_back(variant, cut):
    model = meta(20, variant, cut=cut)
    a = model.encode(torch.empty(2, *IMAGE, device="meta"))
    assert a.shape == (2, *FEATURES[cut])
    assert model.process(torch.stack((a, a), 1)).shape == (2, 2, 64, 8, 8)


def test_growing_block_puts_every_second_position_between_zeros():
    for layers, lead in ((REAL, (3,)), (COMPLEX, (3, 2))):
        x = torch.randn(*lead, 4, 6, 6)
        shortcut = Block(layers, 4, 8, stride=2).shortcut(x)
        assert shortcut.shape == (*lead, 8, 3, 3)
        assert_close(shortcut[..., 2:6, :, :], x[..., ::2, ::2])
        assert not shortcut[..., :2, :, :].any()
        assert not shortcut[..., 6:, :, :].any()


def test_block_is_the_sum_then_the_activation():
    block, x = Block(REAL, 4, 4), torch.randn(3, 4, 6, 6)
    norm, act, first, second = REAL["norm"](4), REAL["act"](), block.first.conv, block.second.conv
    assert_close(block(x), act(norm(second(act(norm(first(x))))) + x))


@pytest.mark.parametrize("weights", ["complex", "real"])
@pytest.mark.parametrize("cut", FEATURES)
def test_law(cut, weights):
    assert_law(resnet(20, "beta", cut=cut, weights=weights).processor, FEATURES[cut])


@pytest.mark.parametrize("variant", ["alpha", "beta"])
def test_law_where_c_is_a_mean_and_the_network_deep(variant):
    assert_law(resnet(56, variant, c="channel_mean").processor, (16, 8, 8), batches=(2,))


@pytest.mark.parametrize("depth", DEPTHS)
def test_one_step_of_each_depth(depth):
    one_step(resnet(depth), IMAGE, 10)
    one_step(resnet(depth, "beta", "original", cut="authors"), IMAGE, 10)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cut", FEATURES)
def test_one_step_of_each_form(cut, form):
    one_step(resnet(20, "beta", form, classes=100, cut=cut, weights="real"), IMAGE, 100)


def test_the_key_does_not_change_the_logits():
    model, x, b = resnet(20).eval().double(), torch.randn(3, *IMAGE).double(), torch.tensor([1, 2, 0])
    with torch.no_grad():
        assert_close(model(x, torch.linspace(0.2, 6, 3), b), model(x, torch.zeros(3), b), torch.float64, "network")


def test_what_cannot_be_is_named():
    with pytest.raises(ValueError, match="`depth` must be one of 20, 32, 44, 56, 110, got 18"):
        resnet(18)
    with pytest.raises(ValueError, match="`variant` must be one of alpha, beta, got 'gamma'"):
        resnet(20, "gamma")
    with pytest.raises(ValueError, match="`cut` must be one of report, authors, got 'paper'"):
        resnet(20, cut="paper")
