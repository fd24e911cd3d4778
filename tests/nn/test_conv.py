"""ComplexConv2d and ComplexLinear: their functional, padding, and what they refuse."""

import pytest
import torch
from torch import nn

import cvkernels.functional as F
import cvkernels.nn as cnn
from cvkernels import to_channels_last, to_complex, to_planar
from tests.close import assert_close

Z = torch.randn(3, 2, 4, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def conv(*args, **settings):
    return cnn.ComplexConv2d(*args, dtype=torch.float64, **settings)


@pytest.mark.parametrize("weights", ["complex", "real"])
def test_conv_is_its_functional(weights):
    layer = conv(4, 6, (3, 2), (2, 1), (1, 0), (1, 2), 2, weights=weights)
    kernel = (layer.weight_re, layer.weight_im) if weights == "complex" else layer.weight
    assert torch.equal(layer(Z), F.conv2d(Z, kernel, (2, 1), (1, 0), (1, 2), 2))
    assert layer(Z).shape == (3, 2, 6, 5, 6)


@pytest.mark.parametrize("weights", ["complex", "real"])
def test_linear_is_its_functional(weights):
    layer, z = cnn.ComplexLinear(8, 5, weights=weights, dtype=torch.float64), Z[:, :, 0, 0]
    kernel = (layer.weight_re, layer.weight_im) if weights == "complex" else layer.weight
    assert torch.equal(layer(z), F.linear(z, kernel))


def test_parameters_have_torchs_shapes():
    assert {k: list(v.shape) for k, v in conv(4, 6, 3, groups=2).state_dict().items()} == {
        "weight_re": [6, 2, 3, 3],
        "weight_im": [6, 2, 3, 3],
    }
    assert {k: list(v.shape) for k, v in conv(4, 6, 3, weights="real").state_dict().items()} == {"weight": [6, 4, 3, 3]}
    assert list(cnn.ComplexLinear(4, 6).weight_im.shape) == [6, 4]


PADDINGS = {
    "number": dict(kernel_size=3, padding=1, stride=2),
    "pair": dict(kernel_size=(3, 5), padding=(0, 2)),
    "same": dict(kernel_size=(3, 5), padding="same", dilation=(1, 2)),
    "same-even": dict(kernel_size=(3, 3), padding="same", dilation=(2, 1)),
    "valid": dict(kernel_size=2, padding="valid"),
}


@pytest.mark.parametrize("mode", ["zeros", "replicate"])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(
    "form", [lambda z: z, to_channels_last, to_complex], ids=["planar", "channels-last", "complex"]
)
def test_padding_is_torchs(padding, mode, form):
    """A complex convolution of torch's own, given the same weights, pads the same way."""
    layer = conv(4, 6, padding_mode=mode, **PADDINGS[padding])
    torchs = nn.Conv2d(4, 6, bias=False, padding_mode=mode, dtype=torch.complex128, **PADDINGS[padding])
    torchs.weight = nn.Parameter(torch.complex(layer.weight_re.detach(), layer.weight_im.detach()))
    assert_close(to_planar(layer(form(Z))), to_planar(torchs(to_complex(Z))))


def test_replicate_keeps_channels_last():
    y = conv(4, 6, 3, padding=1, padding_mode="replicate")(to_channels_last(Z))
    assert y.movedim((1, 2), (-2, -1)).is_contiguous()


@pytest.mark.parametrize("make", [lambda **k: conv(4, 6, 3, **k), lambda **k: cnn.ComplexLinear(4, 6, **k)])
class TestRefused:
    @pytest.mark.parametrize("bias", [True, 1])
    def test_bias_with_reason_and_remedy(self, make, bias):
        with pytest.raises(ValueError, match=r"`bias` must be False.*does not turn with its input.*leave it out here"):
            make(bias=bias)

    def test_unknown_weights(self, make):
        with pytest.raises(ValueError, match="`weights` must be 'complex' or 'real', got 'quaternion'"):
            make(weights="quaternion")


REFUSED = {
    "in_channels": (dict(in_channels=0), ValueError, "`in_channels` must be >= 1, got 0"),
    "out_channels": (dict(out_channels=2.5), TypeError, "`out_channels` must be an int, got float 2.5"),
    "groups": (dict(groups=3), ValueError, "`in_channels` must be a multiple of groups=3, got 4"),
    "groups-0": (dict(groups=0), ValueError, "`groups` must be >= 1, got 0"),
    "kernel_size": (dict(kernel_size=0), ValueError, r"`kernel_size` must be >= 1, got \(0, 0\)"),
    "kernel-triple": (dict(kernel_size=(1, 2, 3)), TypeError, "`kernel_size` must be an int or a pair of ints"),
    "stride": (dict(stride=(1, 0)), ValueError, r"`stride` must be >= 1, got \(1, 0\)"),
    "dilation": (dict(dilation=0), ValueError, "`dilation` must be >= 1"),
    "padding": (dict(padding=-1), ValueError, "`padding` must be >= 0"),
    "padding-name": (dict(padding="full"), ValueError, "an int, a pair, 'same' or 'valid', got 'full'"),
    "padding-stride": (
        dict(padding="same", stride=2),
        ValueError,
        r"`padding`='same' needs stride 1, got stride \(2, 2\)",
    ),
    "padding_mode": (dict(padding_mode="reflect"), ValueError, "must be 'zeros' or 'replicate', got 'reflect'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_conv_refuses(name):
    settings, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        conv(**{"in_channels": 4, "out_channels": 6, "kernel_size": 3, **settings})


def test_features_that_do_not_fit_are_refused_by_name():
    with pytest.raises(ValueError, match=r"`z` must be planar \[N, 2, C, H, W\]"):
        conv(4, 6, 3, padding=1, padding_mode="replicate")(Z[:, 0])
    with pytest.raises(ValueError, match="must take 5 channels"):
        conv(5, 6, 3)(Z)
    with pytest.raises(TypeError, match="`weight` must have the dtype of `z`"):
        conv(4, 6, 3)(Z.float())


def test_repr_shows_what_differs_from_the_default():
    assert repr(conv(4, 6, 3)) == "ComplexConv2d(4, 6, kernel_size=(3, 3), stride=(1, 1), weights='complex')"
    text = repr(conv(4, 6, 3, padding="same", groups=2, padding_mode="replicate", weights="real"))
    assert "padding='same', groups=2, padding_mode='replicate', weights='real'" in text
