"""The four forms and the encoder's ends, on a small network and by hand."""

import pytest
import torch
from torch import nn

from models.cost import multiply_adds, parameters
from models.forms import FORMS, GENERATORS, assemble, generator_end
from models.split import NoisyModel, OpenModel, PairModel, SplitModel
from tests.close import assert_close

EXTRA = {"relu": 0, "linear": 9 * 32 * 32, "norm": 9 * 32 * 32 + 2 * 32, "wide": 1_043_009 - 66_049}


def small(form="complex", **options):
    encoder = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()]
    decoder = nn.Sequential(nn.Flatten(), nn.Linear(4 * 36, 5))
    return assemble(form, encoder, 4, lambda layers: layers["conv_norm_act"](4, 4, 3, padding=1), decoder, **options)


@pytest.mark.parametrize("kind", GENERATORS)
def test_generator_parameters_by_hand(kind):
    # the authors' code counts 1,043,009, of which 66,049 are two linear layers that are never called
    end = nn.Sequential(*generator_end(kind, 32))
    assert sum(p.numel() for p in end.parameters()) == EXTRA[kind]
    a = torch.randn(2, 32, 6, 6).relu()
    out = end(a)
    assert out.shape == a.shape
    assert (out < 0).any() == (kind != "relu")  # only then is a rectified feature's quadrant not given away


def test_wide_generator_multiply_adds_as_published():
    with torch.device("meta"):
        model = OpenModel(nn.Sequential(*generator_end("wide", 32)), nn.Identity(), nn.Identity())
        counted = multiply_adds(model, (32, 16, 16))["encoder"]
    assert counted == 16 * 16 * (9 * 32 * 224 + 2 * 9 * 224 * 224 + 224 * 32)
    assert round(counted / 1e6, 1) == 249.6


def test_wide_generator_adds_before_the_second_activation():
    (wide,) = generator_end("wide", 3)
    wide.eval()
    a = torch.randn(2, 3, 5, 5)
    with torch.no_grad():
        middle = wide.widen(a)
        assert_close(wide(a), wide.narrow((middle + wide.second(wide.first(middle))).clamp(min=0)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("generator", GENERATORS)
def test_which_form_has_the_extra_layers(form, generator):
    model = small(form, generator=generator)
    bare = parameters(small("original"))["encoder"]
    end = "linear" if (form, generator) == ("layers", "relu") else generator
    extra = sum(p.numel() for p in nn.Sequential(*generator_end(end, 4)).parameters())
    assert parameters(model)["encoder"] == bare + (extra if form in ("layers", "complex") else 0)
    kind = {"original": OpenModel, "layers": OpenModel, "noisy": NoisyModel, "complex": SplitModel}[form]
    assert type(model) is kind


def test_noise_is_as_large_as_asked_and_never_shared():
    a = torch.zeros(50, 4, 20, 20)
    for gamma in (0.2, 0.5, 1.0):
        noisy = small("noisy", gamma=gamma)
        for mode in (True, False):
            z = noisy.train(mode).conceal(a)
            assert z.std().item() == pytest.approx(gamma, rel=0.02)
            assert z.mean().item() == pytest.approx(0, abs=0.02)
            assert (z[0] != z[1]).any()
            assert (z != noisy.conceal(a)).any()
    assert small("noisy", gamma=0).conceal(a) is not None
    assert_close(small("noisy", gamma=0).conceal(a + 1), a + 1)


def test_noise_reaches_the_logits():
    noisy, x = small("noisy").eval(), torch.randn(2, 3, 6, 6)
    assert (noisy(x) != noisy(x)).any()


def test_both_parts_and_other_choices():
    assert type(small(both=True)) is PairModel
    assert small(detach_b=True).detach_b
    assert small(c=0.25).processor.norm_act.c == 0.25
    for form, wrong, message in (
        ("real", {}, "`form` must be one of original, layers, noisy, complex, got 'real'"),
        ("complex", {"generator": "tanh"}, "`generator` must be one of relu, linear, norm, wide, got 'tanh'"),
        ("complex", {"both": True, "detach_b": True}, "`detach_b` must be False where `both`"),
        ("noisy", {"gamma": -1}, "`gamma` must be >= 0, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            small(form, **wrong)
