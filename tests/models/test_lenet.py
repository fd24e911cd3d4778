"""LeNet in its forms: parameters counted by hand, the law, and one step of training."""

import pytest
import torch
from torch.nn.functional import cross_entropy, pad

import cvkernels.nn as cnn
from models.cost import multiply_adds, parameters
from models.critic import LeNetCritic
from models.forms import FORMS
from models.layers import COMPLEX, REAL, complex_layers
from models.lenet import FEATURES, WIDE_FEATURES, RepeatEdge, lenet, wide_lenet
from models.split import PairModel
from tests.close import assert_close, assert_equivariant
from tests.models.steps import assert_law, one_step

ENCODER = 3 * 6 * 25 + 6
EXTRA = 6 * 6 * 9
WEIGHTS = 6 * 16 * 25 + 400 * 120 + 120 * 84 + 84 * 10
BIASES = 16 + 120 + 84 + 10


def count(module):
    return sum(p.numel() for p in module.parameters())


def run(model, n=4):
    x = torch.randn(n, 3, 32, 32)
    return model(x, torch.linspace(0.1, 6, n)) if model.keyed else model(x)


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({"form": "original"}, ENCODER + WEIGHTS + BIASES),
        ({"form": "layers"}, ENCODER + EXTRA + WEIGHTS + BIASES),
        ({"form": "complex"}, ENCODER + 2 * WEIGHTS),
        ({"form": "complex", "generator": "linear"}, ENCODER + EXTRA + 2 * WEIGHTS),
        ({"form": "complex", "weights": "real"}, ENCODER + WEIGHTS),
    ],
    ids=lambda v: "-".join(v.values()) if isinstance(v, dict) else "",
)
def test_parameters_by_hand(options, parameters):
    model = lenet(**options)
    assert count(model) == parameters
    assert run(model).shape == (4, 10)


def test_original_is_the_62006_parameters_everyone_knows():
    assert count(lenet("original")) == 62006


def test_wide_parameters_and_multiply_adds_by_hand():
    encoder, generator = 3 * 32 * 25 + 32, 1_043_009 - 66_049
    kernels = 32 * 64 * 25 + 64 * 128 * 25 + 128 * 128 * 16 + 128 * 10
    with torch.device("meta"):
        original, hidden = wide_lenet("original"), wide_lenet(generator="wide", weights="real", c="mean")
    assert tuple(parameters(original).values()) == (encoder, kernels + 64 + 128 + 128 + 10, 0)
    assert tuple(parameters(hidden).values()) == (encoder + generator, kernels, 0)
    moved = 32 * 64 * 25 * 16 * 16 + 64 * 128 * 25 * 8 * 8 + 128 * 128 * 16 + 128 * 10
    assert tuple(multiply_adds(original).values()) == (3 * 32 * 25 * 32 * 32, moved, 0)
    assert multiply_adds(hidden)["processor"] == 2 * moved


def test_multiply_adds_by_hand():
    with torch.device("meta"):
        counted = multiply_adds(lenet("original"))
    assert tuple(counted.values()) == (3 * 6 * 25 * 28 * 28, 6 * 16 * 25 * 10 * 10 + 400 * 120 + 120 * 84 + 84 * 10, 0)


def test_wide_processor_ends_where_the_logits_are_read():
    model = wide_lenet()
    a = model.encode(torch.randn(2, 3, 32, 32))
    assert a.shape == (2, *WIDE_FEATURES)
    assert model.process(torch.stack((a, a), 1)).shape == (2, 2, 10, 1, 1)
    assert (wide_lenet("original")(torch.randn(9, 3, 32, 32)) < 0).any()


def test_edge_repeated_is_torchs_replicate_padding():
    z = torch.randn(3, 2, 4, 5, 6)
    assert_close(RepeatEdge()(z)[:, 1], pad(z[:, 1], (0, 1, 0, 1), "replicate"))


@pytest.mark.parametrize("form", FORMS)
def test_one_step_of_each_form(form):
    one_step(lenet(form), (3, 32, 32), 10)
    one_step(wide_lenet(form, classes=100, c="mean", generator="wide"), (3, 32, 32), 100)


def test_one_step_of_pairs():
    model = lenet(both=True)
    assert isinstance(model, PairModel)
    one_step(model, (3, 32, 32), 10, n=4)


@pytest.mark.parametrize("form", FORMS)
def test_features_that_cross(form):
    assert lenet(form).encode(torch.randn(2, 3, 32, 32)).shape == (2, *FEATURES)


def test_critic_parameters_by_hand():
    assert count(LeNetCritic()) == 6 * 32 * 25 + 32 + 32 * 5 * 5 + 1
    assert LeNetCritic()(torch.randn(3, *FEATURES)).shape == (3, 1)
    with pytest.raises(ValueError, match="`side` must be at least 6, got 5"):
        LeNetCritic(side=5)


def test_both_vocabularies_name_the_same_roles():
    assert REAL.keys() == COMPLEX.keys() == complex_layers().keys()


def test_norm_act_is_norm_then_residual_then_act():
    x, residual = torch.randn(6, 4, 5, 5), torch.randn(6, 4, 5, 5)
    layer = REAL["norm_act"](4)
    norm = REAL["norm"](4)
    assert_close(layer(x, residual), (norm(x) + residual).relu())
    z, shortcut = torch.randn(6, 2, 4, 5, 5), torch.randn(6, 2, 4, 5, 5)
    layer, norm, act = COMPLEX["norm_act"](4), COMPLEX["norm"](4), COMPLEX["act"]()
    assert_close(layer(z, shortcut), act(norm(z) + shortcut))


@pytest.mark.parametrize("weights", ["complex", "real"])
@pytest.mark.parametrize("c", [1.0, "channel_mean"])
def test_law_untrained(weights, c):
    processor = lenet("complex", weights=weights, c=c).processor
    assert cnn.validate(processor) == []
    for n in (1, 7):
        for mode in (True, False):
            processor.train(mode)
            assert_equivariant(processor, torch.randn(n, 2, *FEATURES), kind="network")


@pytest.mark.parametrize("c", [1.0, "mean"])
def test_law_of_the_wide_one(c):
    assert_law(wide_lenet(c=c).processor, WIDE_FEATURES)


def test_law_after_training_briefly():
    model = lenet("complex")
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    x, labels, theta = torch.randn(16, 3, 32, 32), torch.arange(16) % 10, torch.linspace(0, 6, 16)
    losses = []
    for _ in range(20):
        loss = cross_entropy(model(x, theta), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    for n in (1, 7):
        for mode in (True, False):
            model.processor.train(mode)
            z = model.conceal(model.encode(x[:n]), theta[:n], model.encode(x[7 : 7 + n])).detach()
            assert_equivariant(model.processor, z, kind="network")


def test_the_key_does_not_change_the_logits():
    model = lenet("complex").eval()
    x, b = torch.randn(5, 3, 32, 32), torch.tensor([1, 2, 3, 4, 0])
    with torch.no_grad():
        assert_close(model(x, torch.linspace(0.2, 6, 5), b), model(x, torch.zeros(5), b), kind="network")


def test_every_parameter_gets_a_gradient():
    for form in FORMS:
        model = lenet(form)
        run(model).square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_what_cannot_be_is_named():
    with pytest.raises(ValueError, match="`form` must be one of original, layers, noisy, complex, got 'real'"):
        lenet("real")
    with pytest.raises(ValueError, match="`generator` must be one of relu, linear, norm, wide, got 'tanh'"):
        lenet("complex", generator="tanh")
