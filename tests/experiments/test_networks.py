"""Which network a run's settings mean."""

import pytest
import torch

from experiments.data import to_input
from experiments.networks import Standardise, build, build_critic, critic_kind
from experiments.settings import NETWORKS, PIXELS, override, preset
from models.critic import LeNetCritic, ResidualCritic
from models.forms import WideGenerator
from models.split import NoisyModel, OpenModel, PairModel, SplitModel
from tests.close import assert_close

TEN = type("Outputs", (), {"outputs": 10, "name": "cifar10"})
FORMS = {"original": OpenModel, "layers": OpenModel, "noisy": NoisyModel, "complex": SplitModel}


@pytest.mark.parametrize("name", ["report", "authors"])
@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_of_every_form_can_be_built(name, network):
    for form, kind in FORMS.items():
        settings = override(preset(name, network=network), [f"network={network}", f"form={form}"])
        with torch.device("meta"):  # the sizes without the numbers
            model = build(settings, TEN, 0)
        pair = name == "authors" and form == "complex"  # both parts are decoded there
        assert type(model) is (PairModel if pair else kind)
        assert list(model.parameters())[-1].shape[0] == 10 or network == "lenet"


def test_a_seed_gives_the_same_weights_and_another_seed_others():
    def weights(seed):
        return torch.cat([p.flatten() for p in build(preset("report"), TEN, seed).parameters()])

    before = torch.get_rng_state()
    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))
    assert torch.equal(torch.get_rng_state(), before)


def test_lenets_features_have_a_critic_of_their_own():
    lenet, wide = preset("report"), preset("authors")
    resnet = override(lenet, ["network=resnet20-alpha"])
    assert [critic_kind(s) for s in (lenet, wide, resnet)] == ["lenet", "residual", "residual"]
    assert isinstance(build_critic(lenet, (6, 14, 14), 0), LeNetCritic)
    assert isinstance(build_critic(resnet, (16, 32, 32), 0), ResidualCritic)


def test_pixels_standardised_by_hand():
    pixels = torch.rand(2, 3, 4, 4)
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in PIXELS["cifar100"])
    assert_close(Standardise(*PIXELS["cifar100"])(to_input(pixels)), (pixels - mean) / deviation)
    usual, other = (override(preset("report"), [f"standardise={on}"]) for on in ("false", "true"))
    with_it, without = build(other, TEN, 0).eval(), build(usual, TEN, 0).eval()
    x = torch.rand(2, 3, 32, 32)
    assert_close(with_it.encode(x), without.encode(Standardise(*PIXELS["cifar10"])(x)))
    digits = type("Outputs", (), {"outputs": 10, "name": "digits"})  # which the authors' code has not
    assert type(build(other, digits, 0).encoder[0]) is not Standardise


def test_normal_kernels_but_for_the_generators():
    settings = override(preset("authors", network="resnet20-alpha"), ["network=resnet20-alpha"])
    assert settings.init == "normal"
    model, usual = (build(s, TEN, 0) for s in (settings, override(settings, ["init=default"])))
    kernels = dict(model.named_parameters())
    for name, before in usual.named_parameters():
        spared = before.ndim == 1 or name.startswith("encoder.6.")
        assert torch.equal(kernels[name], before) == spared, name
        if not spared and before.numel() > 4000:
            assert kernels[name].std().item() == pytest.approx(1, rel=0.05)
    assert type(model.encoder[6]) is WideGenerator
