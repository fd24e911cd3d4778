"""Which network a run's settings mean."""

import pytest
import torch

from experiments.networks import build, build_critic, critic_kind
from experiments.settings import NETWORKS, override, preset
from models.critic import LeNetCritic, ResidualCritic
from models.split import NoisyModel, OpenModel, PairModel, SplitModel

TEN = type("Outputs", (), {"outputs": 10})
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
