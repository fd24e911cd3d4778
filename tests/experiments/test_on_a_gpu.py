"""Training on a GPU: graphs replay what eager steps do, and every preset fits a small card."""

import pytest
import torch

from experiments import train
from experiments.data import Images
from experiments.networks import build
from experiments.settings import NETWORKS, override, preset
from tests.close import assert_close

pytestmark = pytest.mark.gpu
LIMIT = 7 * 2**30  # bytes of GPU memory a preset may take at its default batch


def trainer_of(settings, side, graph=False):
    device = torch.device("cuda")
    model = build(settings, type("Outputs", (), {"outputs": 10, "name": "cifar10"}), 0).to(device)
    images = Images(torch.rand(2, 3, side, side, device=device), torch.zeros(2, dtype=torch.int64, device=device))
    features = train._features(model, images) if model.keyed else None
    return train.Trainer(model, settings, 0, device, train.How(graph=graph), features)


def images_of(n, side):
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, 3, side, side), generator=rng, dtype=torch.uint8)
    return Images(pixels.cuda(), torch.randint(0, 10, (n,), generator=rng).cuda())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("adversary", ["penalty", "clip", "off", "summed"])
def test_graphs_replay_what_eager_steps_do(adversary, precision):
    if precision == "bf16" and not torch.cuda.is_bf16_supported():
        pytest.skip("this card has no bfloat16")
    changes = [f"adversary={adversary}"]
    if adversary == "summed":
        if precision == "fp16":
            pytest.skip("a summed step has no gradient scaler")
        changes = ["adversary=clip", "generator_step=summed", "generator_every=1"]
    changes += [f"precision={precision}", "batch=16", "milestones=1"]
    settings = override(preset("report"), changes)
    images, weights = images_of(16 * 6 + 5, 32), []
    for graph in (False, True):
        trainer = trainer_of(settings, 32, graph)
        for epoch in range(2):  # in the second one the rates are a tenth
            trainer.epoch, trainer.step = epoch, 0
            for index in trainer.begin_epoch(images)[0]:  # the last batch has another size: it runs as it is
                trainer.batch(images, index)
        weights.append(trainer.model.state_dict())
        assert trainer.means()["loss"] < 10
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    for name, value in weights[0].items():
        assert_close(weights[1][name].double(), value.double(), kind="network", name=name, computed_in=kind)


@pytest.mark.parametrize("name", ["report", "authors"])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_preset_trains_within_seven_gigabytes(name, network):
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()  # a test before this one may have taken more
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, LIMIT / total))
    try:
        settings = override(preset(name, network=network), [f"network={network}"])
        side = 224 if network in ("vgg16", "alexnet") else 32
        images = images_of(settings.batch, side)
        trainer = trainer_of(settings, side)
        for turn in (0, 4, 49):  # whoever's turn it is: the task's, the critic's, the generator's
            trainer.turn = turn
            trainer.rng = torch.Generator().manual_seed(turn)
            trainer.batch(images, torch.arange(settings.batch))
        assert torch.cuda.max_memory_reserved() <= LIMIT
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
