"""The layers without parameters: each is its functional, and refuses what cannot be."""

import pytest
import torch

import cvkernels.functional as F
import cvkernels.nn as cnn
from cvkernels import to_complex

Z = torch.randn(3, 2, 4, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

SAME = {
    "relu": (cnn.MagnitudeReLU(0.5), lambda z: F.magnitude_relu(z, 0.5)),
    "relu-mean": (cnn.MagnitudeReLU("mean", True), lambda z: F.magnitude_relu(z, "mean", True)),
    "max": (cnn.MagnitudeMaxPool2d(3, 2, 1, 2, ceil_mode=True), lambda z: F.magnitude_max_pool2d(z, 3, 2, 1, 2, True)),
    "max-default": (cnn.MagnitudeMaxPool2d((2, 3)), lambda z: F.magnitude_max_pool2d(z, (2, 3))),
    "avg": (
        cnn.ComplexAvgPool2d((3, 2), 2, 1, True, False, 5),
        lambda z: F.avg_pool2d(z, (3, 2), 2, 1, True, False, 5),
    ),
    "adaptive": (cnn.ComplexAdaptiveAvgPool2d((None, 2)), lambda z: F.adaptive_avg_pool2d(z, (None, 2))),
    "dropout": (cnn.ComplexDropout(0.4), lambda z: F.dropout(z, 0.4)),
    "dropout2d": (cnn.ComplexDropout2d(0.4), lambda z: F.dropout2d(z, 0.4)),
    "rotation": (
        lambda z: cnn.PhaseRotation()(z, torch.tensor([0.1, 2, 5])),
        lambda z: F.rotate_phase(z, torch.tensor([0.1, 2, 5])),
    ),
}


@pytest.mark.parametrize("name", SAME)
@pytest.mark.parametrize("form", [lambda z: z, to_complex], ids=["planar", "complex"])
def test_is_its_functional(name, form):
    layer, function = SAME[name]
    torch.manual_seed(2)
    got = layer(form(Z))
    torch.manual_seed(2)
    assert torch.equal(got, function(form(Z)))


def test_max_pool_returns_indices():
    y, index = cnn.MagnitudeMaxPool2d(2, return_indices=True)(Z)
    assert torch.equal(Z[:, 0].flatten(2).gather(2, index.flatten(2)), y[:, 0].flatten(2))


@pytest.mark.parametrize("layer", [cnn.ComplexDropout(0.4), cnn.ComplexDropout2d(0.4)])
def test_dropout_draws_one_mask_in_training_and_none_in_inference(layer):
    dropped = layer(Z) == 0
    assert torch.equal(dropped[:, 0], dropped[:, 1]) and dropped.any() and not dropped.all()
    layer.eval()
    assert torch.equal(layer(Z), Z)
    layer.train()


def test_flatten_keeps_the_parts_apart():
    assert torch.equal(cnn.ComplexFlatten()(Z), Z.flatten(2))
    assert torch.equal(cnn.ComplexFlatten()(to_complex(Z)), to_complex(Z).flatten(1))
    assert cnn.ComplexFlatten(2)(Z).shape == (3, 2, 4, 72)
    assert cnn.ComplexFlatten(1, 2)(Z).shape == (3, 2, 36, 8)
    assert cnn.ComplexFlatten(-3, -2)(Z).shape == (3, 2, 36, 8)


def test_refused_when_made():
    with pytest.raises(ValueError, match=r"`p` must lie in \[0, 1\], got 1.5"):
        cnn.ComplexDropout(1.5)
    with pytest.raises(ValueError, match="`c` must be > 0"):
        cnn.MagnitudeReLU(0)
    with pytest.raises(ValueError, match="`c` must be a number > 0 or one of channel_mean.*got 'median'"):
        cnn.MagnitudeReLU("median")
    with pytest.raises(TypeError, match="`c` must be a number"):
        cnn.MagnitudeReLU(None)
    with pytest.raises(ValueError, match="`start_dim` must not be 0"):
        cnn.ComplexFlatten(0)


def test_flatten_refuses_to_join_parts_or_samples():
    for layer in (cnn.ComplexFlatten(-4), cnn.ComplexFlatten(-5)):
        with pytest.raises(ValueError, match="reaches the samples or the parts"):
            layer(Z)


def test_the_angle_is_never_kept():
    layer = cnn.PhaseRotation()
    layer(Z, torch.zeros(3))
    assert not layer.state_dict() and not [v for v in vars(layer).values() if isinstance(v, torch.Tensor)]
