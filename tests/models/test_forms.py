"""The four forms and the encoder's ends, on a small network and by hand."""

import pytest
import torch
from torch import nn

from models.choices import FORMS, GENERATORS
from models.cost import multiply_adds, parameters
from models.forms import assemble, generator_end
from models.layers import complex_layers
from models.split import NoisyModel, OpenModel, PairModel, SplitModel
from tests.close import assert_close, assert_equivariant

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


@pytest.mark.parametrize("weights", ["complex", "real"])
@pytest.mark.parametrize("published", [{}, {"detach_modulus": True}, {"norm_power": 2.0}, {"batch_statistics": True}])
def test_published_layers_turn_with_their_input(weights, published):
    processor = small(weights=weights, **published).processor
    for n, training in ((5, True), (5, False), (1, False)):
        assert_equivariant(processor.train(training), torch.randn(n, 2, 4, 6, 6), kind="network")


def test_the_power_behind_a_norm():
    z = torch.randn(8, 2, 3, 5, 5)
    for power in (1.0, 2.0):
        y = complex_layers(norm_power=power)["norm"](3)(z)
        assert_close(y.square().sum(1).mean((0, 2, 3)), torch.full((3,), power), kind="network")
    # the authors' own: the mean over both parts, 1e-5 added to it
    by_hand = z / (z.square().mean((0, 1, 3, 4), keepdim=True) + 1e-5).sqrt()
    assert_close(y, by_hand)


@pytest.mark.parametrize("training", [True, False])
def test_a_detached_modulus_changes_the_gradient_alone(training):
    """With the norm's scale and the ReLU's factor constants, output = factor · z and its gradient is that factor."""
    z = torch.randn(6, 2, 4, 5, 5, requires_grad=True)
    ours, theirs = (complex_layers(detach_modulus=detach)["norm_act"](4).train(training) for detach in (False, True))
    for _ in range(2):  # the second sees a running power that has moved
        y, same = ours(z), theirs(z)
        assert_close(same, y)
    assert_close(theirs.norm.running_power, ours.running_power)
    assert theirs.norm.num_batches_tracked == ours.num_batches_tracked == (2 if training else 0)
    weight = torch.randn_like(y)
    (grad,) = torch.autograd.grad((same * weight).sum(), z)
    assert_close(grad, (same.norm(dim=1) / z.norm(dim=1))[:, None] * weight, kind="network")
    (full,) = torch.autograd.grad((y * weight).sum(), z)
    assert (full - grad).abs().max() > 0.01


def test_batch_statistics_in_inference():
    z = 3 * torch.randn(6, 2, 4, 5, 5)
    usual, theirs = (complex_layers(batch_statistics=on)["conv_norm_act"](4, 4, 3, padding=1) for on in (False, True))
    theirs.conv.load_state_dict(usual.conv.state_dict())
    assert_close(theirs(z), usual(z))
    usual.eval(), theirs.eval()
    assert (theirs(z[:2]) - theirs(z)[:2]).abs().max() > 1e-3  # a sample's features depend on who is beside it
    assert_close(usual(z[:2]), usual(z)[:2])
    assert not dict(theirs.named_buffers())
