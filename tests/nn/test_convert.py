"""convert: standard layers replaced, kernels kept, what is lost said once, what cannot be converted said at once."""

import copy
import warnings

import pytest
import torch
from torch import nn

import cvkernels.nn as cnn
from cvkernels import to_complex
from tests.close import assert_close
from tests.nn.networks import ResNet

Z = torch.randn(4, 2, 3, 12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def quietly(module, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return cnn.convert(module, **settings)


def only_real(a):
    return torch.stack((a, torch.zeros_like(a)), 1)


LAYERS = {
    "Conv2d": (
        nn.Conv2d(4, 6, (3, 2), 2, (1, 0), (1, 2), 2, padding_mode="replicate"),
        "ComplexConv2d(4, 6, kernel_size=(3, 2), stride=(2, 2), padding=(1, 0), dilation=(1, 2), groups=2, "
        "padding_mode='replicate', weights='real')",
    ),
    "Conv2d-same": (
        nn.Conv2d(4, 6, 3, padding="same", bias=False),
        "ComplexConv2d(4, 6, kernel_size=(3, 3), stride=(1, 1), padding='same', weights='real')",
    ),
    "Linear": (nn.Linear(4, 6), "ComplexLinear(in_features=4, out_features=6, weights='real')"),
    "BatchNorm2d": (
        nn.BatchNorm2d(4, 1e-3, None),
        "MagnitudeBatchNorm2d(4, eps=0.001, momentum=None, affine=True, track_running_stats=True)",
    ),
    "BatchNorm1d": (
        nn.BatchNorm1d(4, affine=False, track_running_stats=False),
        "MagnitudeBatchNorm1d(4, eps=1e-05, momentum=0.1, affine=False, track_running_stats=False)",
    ),
    "BatchNormReLU2d": (
        cnn.BatchNormReLU2d(4, 1e-3),
        "MagnitudeBatchNormReLU2d(4, eps=0.001, momentum=0.1, affine=True, track_running_stats=True, c=1.0)",
    ),
    "ReLU": (nn.ReLU(inplace=True), "MagnitudeReLU(c=1.0)"),
    "GELU": (nn.GELU(), "MagnitudeReLU(c=1.0)"),
    "MaxPool2d": (
        nn.MaxPool2d(3, 2, 1, 2, ceil_mode=True),
        "MagnitudeMaxPool2d(kernel_size=3, stride=2, padding=1, dilation=2, ceil_mode=True)",
    ),
    "AvgPool2d": (nn.AvgPool2d(3, 2, 1), "ComplexAvgPool2d(kernel_size=3, stride=2, padding=1)"),
    "AdaptiveAvgPool2d": (nn.AdaptiveAvgPool2d((1, 2)), "ComplexAdaptiveAvgPool2d(output_size=(1, 2))"),
    "Dropout": (nn.Dropout(0.3), "ComplexDropout(p=0.3)"),
    "Dropout2d": (nn.Dropout2d(0.3), "ComplexDropout2d(p=0.3)"),
    "Flatten": (nn.Flatten(), "ComplexFlatten(start_dim=1, end_dim=-1)"),
    "Identity": (nn.Identity(), "Identity()"),
    "ours": (cnn.ComplexLinear(3, 4), "ComplexLinear(in_features=3, out_features=4, weights='complex')"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_each_standard_layer_has_its_counterpart(name):
    layer, want = LAYERS[name]
    assert repr(quietly(layer)) == want


@pytest.mark.parametrize("weights", ["real", "complex"])
class TestResNet:
    """A network in torchvision's manner, real kernels in, complex layers out."""

    def test_obeys_the_law(self, weights):
        real = ResNet()
        made = quietly(real, weights=weights)
        assert cnn.validate(real) and not cnn.validate(made)
        # its forward flattens from axis 1: right for complex tensors, and found for planar ones
        assert not cnn.validate(made, to_complex(Z.float()))
        found = cnn.validate(made, Z.float())
        assert found and "raised" in str(found)

    def test_the_original_is_not_changed(self, weights):
        real = ResNet()
        before = copy.deepcopy(real)
        quietly(real, weights=weights)
        assert repr(real) == repr(before)
        assert all(torch.equal(v, before.state_dict()[k]) for k, v in real.state_dict().items())

    def test_shared_layers_stay_shared(self, weights):
        made = quietly(ResNet(), weights=weights)
        twice = quietly(nn.Sequential(shared := nn.Conv2d(3, 3, 1), nn.ReLU(), shared), weights=weights)
        assert twice[0] is twice[2] and made.layer1[0].relu is not made.layer1[1].relu

    def test_modes_dtypes_and_frozen_kernels_are_kept(self, weights):
        real = ResNet().double()
        real.layer1.eval()
        real.conv1.weight.requires_grad_(False)
        made = quietly(real, weights=weights)
        assert {n: m.training for n, m in made.named_modules()} == {n: m.training for n, m in real.named_modules()}
        assert {t.dtype for t in made.state_dict().values()} == {torch.float64, torch.int64}
        assert not any(p.requires_grad for p in made.conv1.parameters())


@pytest.mark.parametrize("weights", ["real", "complex"])
def test_kernels_are_kept_so_a_zero_imaginary_plane_gives_the_same(weights):
    real = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False),
        nn.AvgPool2d(2),
        nn.Conv2d(4, 4, 3, 2, groups=2, bias=False),
        nn.Flatten(),
    ).double()
    head = nn.Linear(16, 5, bias=False).double()
    made = cnn.convert(nn.Sequential(real, head), weights=weights)
    y = made(only_real(Z[:, 0]))
    assert_close(y[:, 0], head(real(Z[:, 0])))
    assert not y[:, 1].any()
    assert set(dict(made[1].named_parameters())) == ({"weight"} if weights == "real" else {"weight_re", "weight_im"})


def test_complex_weights_start_as_the_real_kernel_and_train():
    made = cnn.convert(nn.Linear(3, 4, bias=False), weights="complex")
    assert made.weight_re.any() and not made.weight_im.any()
    made(torch.randn(2, 2, 3)).square().sum().backward()
    assert made.weight_im.grad.any()


@pytest.mark.parametrize("weights", ["real", "complex"])
def test_tied_kernels_stay_tied(weights):
    real = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    real[1].weight = real[0].weight
    made = cnn.convert(real, weights=weights)
    assert made[0] is not made[1]
    for one, two in zip(made[0].parameters(), made[1].parameters(), strict=True):
        assert one is two


@pytest.mark.parametrize("make", [nn.BatchNorm2d, cnn.BatchNormReLU2d])
def test_batch_norm_keeps_its_scale_and_starts_from_the_power_it_saw(make):
    real = make(3).double()
    real(Z[:, 0] + 2)
    nn.init.normal_(real.weight)
    made = quietly(real)
    assert_close(made.running_power, real.running_var + real.running_mean.square())
    assert torch.equal(made.weight, real.weight) and made.num_batches_tracked == 1
    assert quietly(make(3).half()).running_power.dtype == torch.float32


def test_one_warning_lists_what_was_dropped():
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Sequential(nn.Linear(3, 3)), nn.ReLU())
    with pytest.warns(UserWarning, match="dropped, because an offset.*: 0.bias, 1.bias, 2.0.bias;") as seen:
        cnn.convert(network)
    assert len(seen) == 1
    cnn.convert(nn.Conv2d(3, 3, 1, bias=False))  # warnings are errors here


def test_a_layer_alone_is_replaced():
    with pytest.warns(UserWarning, match=": bias;"):
        assert isinstance(cnn.convert(nn.Linear(3, 3)), cnn.ComplexLinear)


def test_c_goes_to_every_activation():
    made = cnn.convert(nn.Sequential(nn.ReLU(), nn.Sequential(nn.SiLU())), c="channel_mean")
    assert made[0].c == made[1][0].c == "channel_mean"


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.zeros(3))
        self.child = nn.Tanh()


class OwnConv(nn.Conv2d):
    pass


def test_all_that_cannot_be_converted_is_listed_at_once_and_nothing_is_done():
    hooked = nn.ReLU()
    hooked.register_forward_hook(lambda *_: None)
    network = nn.Sequential(
        nn.Tanh(),
        nn.LayerNorm(3),
        nn.MultiheadAttention(4, 2),
        Own(),
        OwnConv(3, 3, 1, bias=False),
        nn.Conv2d(3, 3, 1, padding_mode="reflect"),
        nn.utils.parametrizations.weight_norm(nn.Linear(3, 3, bias=False)),
        hooked,
        nn.Conv2d(3, 3, 1),
    )
    with pytest.raises(ValueError, match=r"`module` has 9 layer\(s\) that cannot be converted") as caught:
        cnn.convert(network)
    lines = str(caught.value).splitlines()[1:]
    assert [line.split(":")[0].strip() for line in lines] == ["0", "1", "2", "3", "3.child", "4", "5", "6", "7"]
    assert "position" in lines[3] and "hooks" in lines[8] and "'reflect'" in lines[6]


def test_a_torch_convolution_without_a_complex_form_is_called_that():
    class Own(nn.Conv2d):
        pass

    network = nn.Sequential(
        nn.Conv1d(3, 3, 1, bias=False), nn.Conv1d(3, 3, 1), nn.ConvTranspose2d(3, 3, 1), Own(3, 3, 1, bias=False)
    )
    with pytest.raises(ValueError) as caught:
        cnn.convert(network)
    one, biased, transposed, own = str(caught.value).splitlines()[1:]
    for line, name in ((one, "Conv1d"), (biased, "Conv1d"), (transposed, "ConvTranspose2d")):
        assert f"{name}: has no complex form here; put {name} without a bias on both parts" in line
    assert "its forward may differ from its base class's" in own


def test_unknown_layers_without_parameters_are_left_alone():
    class Skip(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.ReLU()

        def forward(self, z):
            return z + self.inner(z)

    made = cnn.convert(nn.Sequential(Skip(), nn.ZeroPad2d(1)))
    assert type(made[0]) is Skip and isinstance(made[0].inner, cnn.MagnitudeReLU) and isinstance(made[1], nn.ZeroPad2d)
    assert not cnn.validate(made, Z)


def test_refused():
    with pytest.raises(TypeError, match="`module` must be a torch.nn.Module, got str"):
        cnn.convert("resnet18")
    with pytest.raises(ValueError, match="`weights` must be 'complex' or 'real', got 'both'"):
        cnn.convert(nn.ReLU(), weights="both")
    with pytest.raises(ValueError, match="`c` must be > 0"):
        cnn.convert(nn.ReLU(), c=0)
