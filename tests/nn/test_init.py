"""Initialisation: both parts together have the variance the rule names."""

import math

import pytest
import torch
from torch import nn

import cvkernels.nn as cnn
from cvkernels.nn import init
from tests.close import assert_close

SHAPE = (64, 48, 5, 5)  # 76800 weights: a variance is known to 1 %
FAN_IN, FAN_OUT = 48 * 25, 64 * 25


def pair(shape=SHAPE, dtype=torch.float64):
    return torch.empty(shape, dtype=dtype), torch.empty(shape, dtype=dtype)


def power(*parts):
    return sum(p.square().mean().item() for p in parts)


def near(got, want):
    # eight standard errors of the variance of 76800 weights
    return abs(got / want - 1) < 8 / math.sqrt(math.prod(SHAPE))


RULES = {
    "default": (init.default_, {}, 1 / (3 * FAN_IN)),
    "kaiming_uniform": (init.kaiming_uniform_, {"nonlinearity": "relu"}, 2 / FAN_IN),
    "kaiming_normal-fan_out": (init.kaiming_normal_, {"nonlinearity": "relu", "mode": "fan_out"}, 2 / FAN_OUT),
    "kaiming_uniform-leaky": (init.kaiming_uniform_, {"a": 5**0.5}, 1 / (3 * FAN_IN)),
    "xavier_uniform": (init.xavier_uniform_, {}, 2 / (FAN_IN + FAN_OUT)),
    "xavier_normal": (init.xavier_normal_, {"gain": 2}, 8 / (FAN_IN + FAN_OUT)),
}


@pytest.mark.parametrize("rule", RULES)
def test_variance_of_a_pair_and_of_one_real_tensor(rule):
    fill, settings, want = RULES[rule]
    re, im = fill(pair(), **settings)
    assert near(power(re, im), want) and near(2 * power(re), want) and near(2 * power(im), want)
    assert near(power(fill(torch.empty(SHAPE), **settings)), want)


def test_layers_start_with_the_variance_of_torchs_default():
    torchs = nn.Conv2d(48, 64, 5, bias=False).weight
    for weights in ("complex", "real"):
        assert near(power(*cnn.ComplexConv2d(48, 64, 5, weights=weights).parameters()), 1 / (3 * FAN_IN))
    assert near(power(torchs), 1 / (3 * FAN_IN))
    assert near(power(*cnn.ComplexLinear(300, 256).parameters()), 1 / 900)
    grouped = cnn.ComplexConv2d(96, 64, 5, groups=2)
    assert near(power(*grouped.parameters()), 1 / (3 * FAN_IN))


@pytest.mark.parametrize(("criterion", "want"), [("he", 2 / FAN_IN), ("glorot", 2 / (FAN_IN + FAN_OUT))])
def test_rayleigh(criterion, want):
    re, im = init.rayleigh_(pair(), criterion)
    assert near(power(re, im), want)
    share = (re * im > 0).double().mean().item()  # a uniform phase lies in each pair of quadrants half the time
    assert near(share * 2, 1)
    modulus = torch.hypot(re, im)
    assert near(modulus.mean().item() ** 2, want * math.pi / 4)  # which tells Rayleigh from other moduli


@pytest.mark.parametrize("shape", [(8, 20), (20, 8), (6, 2, 3, 3)], ids=["wide", "tall", "conv"])
def test_semi_unitary(shape):
    re, im = init.semi_unitary_(pair(shape), gain=3)
    w = torch.complex(re, im).flatten(1)
    gram = w @ w.mH if w.shape[0] <= w.shape[1] else w.mH @ w
    assert_close(gram, 9 * torch.eye(len(gram), dtype=torch.complex128))
    assert im.any()
    w = init.semi_unitary_(torch.empty(shape, dtype=torch.float64)).flatten(1)
    gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    assert_close(gram, torch.eye(len(gram), dtype=torch.float64))


def test_parameters_are_filled_in_place_and_a_generator_repeats():
    layer = cnn.ComplexConv2d(3, 4, 3)
    before = layer.weight_re.clone()
    assert init.kaiming_normal_(layer.kernel(), generator=torch.Generator().manual_seed(1))[0] is layer.weight_re
    assert not torch.equal(layer.weight_re, before) and layer.weight_re.requires_grad
    for fill in (init.default_, init.xavier_uniform_, init.rayleigh_, init.semi_unitary_):
        one, two = (fill(pair((4, 3)), generator=torch.Generator().manual_seed(1)) for _ in range(2))
        assert torch.equal(torch.stack(one), torch.stack(two))


def test_half_precision_is_drawn_wide():
    for fill in (init.rayleigh_, init.semi_unitary_):
        assert all(p.isfinite().all() for p in fill(pair((8, 8), torch.float16)))


def test_refused():
    with pytest.raises(TypeError, match=r"`weight` must be a pair \(real, imaginary\)"):
        init.rayleigh_(torch.empty(3, 3))
    with pytest.raises(ValueError, match="`criterion` must be 'he' or 'glorot', got 'lecun'"):
        init.rayleigh_(pair((3, 3)), "lecun")
    with pytest.raises(ValueError, match="`mode` must be 'fan_in' or 'fan_out'"):
        init.kaiming_normal_(pair((3, 3)), mode="fan_avg")
    with pytest.raises(ValueError, match="two axes or more"):
        init.default_(torch.empty(3))
