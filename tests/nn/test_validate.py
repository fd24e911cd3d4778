"""validate: every fault at once, nothing where there is none, and the network as it was."""

import pytest
import torch
from torch import nn

import cvkernels.nn as cnn
from cvkernels import to_complex
from tests.nn.networks import ResNet, complex_resnet

Z = torch.randn(4, 2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
MAP = torch.randn(4, 2, 3, 6, 6, generator=torch.Generator().manual_seed(1))


class Calls(nn.Module):
    """A network that is one function, and the layers it may use."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, z):
        return self.function(self, z)


def names(found):
    return [fault.name for fault in found]


class TestReading:
    BREAKS = {
        "Conv2d": (nn.Conv2d(3, 3, 1), "bias", "ComplexConv2d"),
        "Linear": (nn.Linear(3, 3), "bias", "ComplexLinear"),
        "ConvTranspose2d": (nn.ConvTranspose2d(3, 3, 2), "bias", "bias=False"),
        "BatchNorm2d": (nn.BatchNorm2d(3), "subtracts a mean", r"MagnitudeBatchNorm2d\(3\)"),
        "BatchNorm1d": (nn.BatchNorm1d(3), "subtracts a mean", r"MagnitudeBatchNorm1d\(3\)"),
        "BatchNormReLU2d": (cnn.BatchNormReLU2d(3), "apart", r"MagnitudeBatchNormReLU2d\(3\)"),
        "LayerNorm": (nn.LayerNorm(3), "subtracts a mean", "MagnitudeBatchNorm"),
        "GroupNorm": (nn.GroupNorm(1, 3), "subtracts a mean", "MagnitudeBatchNorm"),
        "InstanceNorm2d": (nn.InstanceNorm2d(3), "subtracts a mean", "MagnitudeBatchNorm"),
        "RMSNorm": (nn.RMSNorm(3), "apart", "MagnitudeBatchNorm"),
        "ReLU": (nn.ReLU(), "apart", "MagnitudeReLU"),
        "Tanh": (nn.Tanh(), "apart", "MagnitudeReLU"),
        "Sigmoid": (nn.Sigmoid(), "apart", "MagnitudeReLU"),
        "GELU": (nn.GELU(), "apart", "MagnitudeReLU"),
        "PReLU": (nn.PReLU(), "apart", "MagnitudeReLU"),
        "Softmax": (nn.Softmax(1), "apart", "MagnitudeReLU"),
        "MultiheadAttention": (nn.MultiheadAttention(4, 2), "multiplies features", "no replacement"),
        "MaxPool2d": (nn.MaxPool2d(2), "by the parts", "MagnitudeMaxPool2d"),
        "AdaptiveMaxPool2d": (nn.AdaptiveMaxPool2d(2), "by the parts", "MagnitudeMaxPool2d"),
        "LPPool2d": (nn.LPPool2d(2, 2), "by the parts", "MagnitudeMaxPool2d"),
        "Dropout": (nn.Dropout(0.3), "mask", r"ComplexDropout\(0.3\)"),
        "Dropout2d": (nn.Dropout2d(0.3), "mask", r"ComplexDropout2d\(0.3\)"),
        "AlphaDropout": (nn.AlphaDropout(0.3), "mask", "ComplexDropout"),
        "LSTM": (nn.LSTM(3, 3), "gates", "no replacement"),
        "Bilinear": (nn.Bilinear(3, 3, 3, bias=False), "angles add", "ComplexLinear"),
        "ConstantPad2d": (nn.ConstantPad2d(1, 0.5), "pads with 0.5", "pad with 0"),
        "Flatten": (nn.Flatten(), "joins the two parts", "ComplexFlatten"),
    }
    OBEYS = {
        "Conv2d": nn.Conv2d(3, 3, 1, bias=False),
        "Linear": nn.Linear(3, 3, bias=False),
        "AvgPool3d": nn.AvgPool3d(2),
        "ZeroPad2d": nn.ZeroPad2d(1),
        "ReplicationPad3d": nn.ReplicationPad3d(1),
        "Flatten": nn.Flatten(-3),
        "Identity": nn.Identity(),
        "Dropout-0": nn.Dropout(0),
        "Upsample": nn.Upsample(scale_factor=(1, 2, 2)),
    }

    @pytest.mark.parametrize("name", BREAKS)
    def test_a_layer_that_breaks_the_law_is_named_with_its_replacement(self, name):
        layer, reason, replacement = self.BREAKS[name]
        (fault,) = cnn.validate(nn.Sequential(cnn.MagnitudeReLU(), layer))
        assert fault.name == "1" and fault.layer.startswith(name)
        assert reason in fault.reason
        with pytest.raises(AssertionError, match=replacement):
            raise AssertionError(fault.replacement)

    @pytest.mark.parametrize("name", OBEYS)
    def test_a_layer_that_obeys_is_not(self, name):
        assert not cnn.validate(self.OBEYS[name])

    @pytest.mark.parametrize("name", [n for n, m in OBEYS.items() if n != "Conv2d" and n != "Linear"])
    def test_and_running_it_agrees(self, name):
        assert not cnn.validate(self.OBEYS[name], MAP)

    def test_all_at_once(self):
        found = cnn.validate(ResNet())
        standard = (nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d, nn.Linear)
        assert names(found) == [n for n, m in ResNet().named_modules() if isinstance(m, standard)]

    def test_complex_features_may_be_flattened_from_one(self):
        network = nn.Sequential(nn.Flatten(), cnn.ComplexLinear(108, 5))
        joined, raised = cnn.validate(network, MAP)
        assert (joined.name, raised.name) == ("0", "1") and "its forward raised in training" in raised.reason
        assert not cnn.validate(network, to_complex(MAP))

    def test_a_shared_layer_is_listed_once_and_parts_of_a_faulty_one_are_not(self):
        relu = nn.ReLU()
        assert names(cnn.validate(nn.Sequential(relu, nn.Identity(), relu, nn.MultiheadAttention(4, 2)))) == ["0", "3"]

    def test_the_module_itself(self):
        (fault,) = cnn.validate(nn.ReLU())
        assert str(fault).startswith("the module itself: ReLU()")


class TestRunning:
    @pytest.mark.parametrize("form", [lambda z: z, to_complex], ids=["planar", "complex"])
    def test_a_network_that_obeys(self, form):
        network = nn.Sequential(complex_resnet(), cnn.ComplexDropout(0.5))
        found = cnn.validate(network, form(Z))
        assert not found and list(found) == [] and str(found) == "no fault found"

    @pytest.mark.parametrize("form", [lambda z: z, to_complex], ids=["planar", "complex"])
    def test_every_layer_for_real_maps_is_named_and_what_is_behind_it_too(self, form):
        network = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True),
            nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), cnn.MagnitudeReLU(), nn.ConvTranspose2d(4, 4, 2, bias=False)),
            nn.AvgPool2d(2), cnn.ComplexConv2d(4, 4, 1), nn.AdaptiveAvgPool2d(2), Calls(lambda m, z: z + 1),
        )  # fmt: skip
        found = {fault.name: fault for fault in cnn.validate(network, form(MAP))}
        assert list(found) == ["0", "1", "2", "3.0", "3.2", "4", "6", "7"]
        real = {"0": "ComplexConv2d(weights='real')", "3.0": "ComplexConv2d(weights='real')", "3.2": "no complex form",
                "4": "use ComplexAvgPool2d", "6": "use ComplexAdaptiveAvgPool2d"}  # fmt: skip
        for name, remedy in real.items():
            assert "takes [N, C, H, W], and not " in found[name].reason and remedy in found[name].replacement
        assert "MagnitudeBatchNorm2d(4)" in found["1"].replacement and "does not turn" in found["7"].reason

    def test_a_line_of_features_and_a_linear_layer(self):
        line = MAP.flatten(3)
        (fault,) = cnn.validate(nn.Sequential(nn.Conv1d(3, 3, 1, bias=False)), line)
        assert "takes [N, C, L], and not planar [N, 2, C, L]" in fault.reason
        assert not cnn.validate(nn.Linear(36, 5, bias=False), line)
        (fault,) = cnn.validate(nn.Linear(36, 5, bias=False), to_complex(line))
        assert fault.reason == "takes real features, and not complex features"
        assert fault.replacement == "use ComplexLinear(weights='real')"

    def test_a_real_layer_that_a_forward_gives_the_parts_as_samples_is_not(self):
        parts = Calls(lambda m, z: m.conv(z.flatten(0, 1)).unflatten(0, (-1, 2)), conv=nn.Conv2d(3, 3, 1, bias=False))
        assert not cnn.validate(nn.Sequential(parts, nn.Identity()), MAP)

    FUNCTIONS = {
        "relu": (lambda m, z: torch.relu(z), "does not turn"),
        "tanh": (lambda m, z: m.conv(torch.tanh(z)), "does not turn"),
        "bias": (lambda m, z: m.conv(z) + 0.1, "does not turn"),
        "modulus": (lambda m, z: z.norm(dim=1, keepdim=True).expand_as(z), "stays as it is"),
        "real-logits": (lambda m, z: z.norm(dim=1).sum((2, 3)), "stays as it is"),
        "conjugate": (lambda m, z: torch.stack((z[:, 0], -z[:, 1]), 1), "does not turn"),
        "flatten": (lambda m, z: torch.flatten(z, 1), "nor has it a feature's shape"),
        "mean": (lambda m, z: z - z.mean(0), "does not turn"),
        "mean-in-training": (lambda m, z: z - z.mean(0) if m.training else z, "in training"),
        "relu-in-inference": (lambda m, z: z if m.training else z.relu(), "in inference"),
        "raises": (lambda m, z: m.conv(z[:, :, :1]), "ValueError: `weight`"),
        "path": (lambda m, z: m.conv(z) if z[1, 0].sum() > z[1, 1].sum() else m.other(z), "another path"),
    }

    @pytest.mark.parametrize("name", FUNCTIONS)
    def test_finds_what_a_forward_does_in_plain_functions(self, name):
        function, reason = self.FUNCTIONS[name]
        layers = {key: cnn.ComplexConv2d(3, 3, 3, padding=1) for key in ("conv", "other")}
        found = cnn.validate(nn.Sequential(Calls(function, **layers)), MAP)
        assert found and reason in str(found)
        assert all(fault.name in ("", "0", "0.conv") for fault in found)

    def test_every_faulty_part_at_once_and_innermost(self):
        bad = lambda: Calls(lambda m, z: torch.relu(m.conv(z)), conv=cnn.ComplexConv2d(3, 3, 1))  # noqa: E731
        good = Calls(lambda m, z: m.inner(z) + z, inner=cnn.MagnitudeReLU())
        network = nn.Sequential(bad(), good, nn.ReLU(), nn.Sequential(cnn.MagnitudeReLU(), bad()), good)
        assert sorted(names(cnn.validate(network, MAP))) == ["0", "2", "3.1"]

    def test_an_in_place_layer_is_judged_by_what_it_was_given(self):
        network = nn.Sequential(cnn.ComplexConv2d(3, 3, 1), nn.ReLU(inplace=True), cnn.MagnitudeReLU())
        before = MAP.clone()
        assert names(cnn.validate(network, MAP)) == ["1"]
        assert torch.equal(MAP, before)

    def test_a_layer_on_moduli_is_cleared(self):
        gate = nn.Sequential(nn.Linear(3, 3), nn.Sigmoid())
        network = Calls(lambda m, z: z * m.gate(z.norm(dim=1).mean((2, 3)))[:, None, :, None, None], gate=gate)
        assert names(cnn.validate(network)) == ["gate.0", "gate.1"]
        assert not cnn.validate(network, MAP)

    def test_a_bias_of_zeros_is_listed_although_the_run_does_not_show_it(self):
        layer = nn.Linear(6, 6)
        nn.init.zeros_(layer.bias)
        assert names(cnn.validate(layer, MAP)) == [""]

    def test_dropout_that_masks_the_parts_apart_in_a_forward(self):
        network = Calls(lambda m, z: nn.functional.dropout(z, 0.5, m.training))
        (fault,) = cnn.validate(network, MAP)
        assert "in training" in fault.reason

    def test_norms_of_the_parts_in_a_forward(self):
        """One angle for all would pass a norm by both parts' common statistics; an angle for each sample does not."""
        centred = Calls(lambda m, z: z - z.mean((0, 3, 4), keepdim=True))
        assert cnn.validate(centred, MAP + 1)


class TestLeavesThingsAsTheyWere:
    def test_buffers_modes_gradients_hooks_and_generators(self):
        network = complex_resnet()
        network.layer1.eval()
        state = {k: v.clone() for k, v in network.state_dict().items()}
        versions = [b._version for b in network.buffers()]
        modes = [m.training for m in network.modules()]
        torch.manual_seed(11)
        generator = torch.get_rng_state()
        cnn.validate(nn.Sequential(network, cnn.ComplexDropout()), Z)
        assert torch.equal(generator, torch.get_rng_state())
        assert modes == [m.training for m in network.modules()]
        assert versions == [b._version for b in network.buffers()]
        assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())
        assert all(p.grad is None for p in network.parameters())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())

    def test_also_where_a_forward_raises(self):
        network = nn.Sequential(cnn.MagnitudeBatchNorm2d(3), Calls(lambda m, z: z.nonsense)).eval()
        found = cnn.validate(network, MAP)
        assert names(found) == ["1"] and "AttributeError" in found[0].reason
        assert not network.training and not any(m._forward_hooks for m in network.modules())
        assert network[0].running_power.tolist() == [1, 1, 1]


class TestWhatItGivesBack:
    def test_readable_false_when_empty_and_raises_on_demand(self):
        found = cnn.validate(nn.Sequential(cnn.ComplexConv2d(3, 8, 3), nn.ReLU()))
        assert (
            repr(found)
            == str(found)
            == (
                "1 fault against P(e^{iθ}z) = e^{iθ}P(z):\n"
                "  1: ReLU(): acts on the real and the imaginary part apart; use MagnitudeReLU()"
            )
        )
        with pytest.raises(ValueError, match="1 fault against"):
            found.raise_if_any()
        cnn.validate(cnn.MagnitudeReLU()).raise_if_any()
        assert str(cnn.validate(nn.Sequential(nn.ReLU(), nn.Tanh()))).startswith("2 faults against")

    def test_refused(self):
        with pytest.raises(TypeError, match=r"`module` must be a torch.nn.Module, got str"):
            cnn.validate("resnet18")
        with pytest.raises(ValueError, match="`example` must hold two samples or more"):
            cnn.validate(cnn.MagnitudeReLU(), MAP[:1])
        with pytest.raises(ValueError, match=r"`example` must be planar"):
            cnn.validate(cnn.MagnitudeReLU(), MAP[:, 0])
        with pytest.raises(TypeError, match="`example` must be a tensor"):
            cnn.validate(cnn.MagnitudeReLU(), "planar")
