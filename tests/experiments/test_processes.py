"""Two processes on half a batch each train the same weights as one on the whole."""

import os
import socket

import torch
from torch import distributed, multiprocessing

from experiments import train
from experiments.data import Images
from experiments.networks import build
from experiments.settings import Report, override
from tests.close import assert_close

# ten batches an epoch, the last of five images, of which one process has three and the other two
SETTINGS = override(Report(), ["network=resnet20-alpha", "batch=8", "k=2", "lr=1e-3", "generator_lr=1e-3"])
IMAGES, EPOCHS = 77, 2


def steps(shards=None):
    """The weights after 20 steps in float64: the network's and the critic's."""
    torch.manual_seed(0)
    images = Images(torch.rand(IMAGES, 3, 32, 32), torch.randint(0, 10, (IMAGES,)))
    model = build(SETTINGS, type("Outputs", (), {"outputs": 10}), 0).double()
    trainer = train.Trainer(model, SETTINGS, 0, torch.device("cpu"), features=(16, 32, 32), shards=shards)
    for _ in range(EPOCHS):
        for index in trainer.begin_epoch(images)[0]:
            trainer.batch(images, index)
        trainer.epoch, trainer.step = trainer.epoch + 1, 0
    assert trainer.turn == 20
    return model.state_dict() | {f"critic.{k}": v for k, v in trainer.phases.wgan.critic.state_dict().items()}


def one_of_two(rank, port, folder):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", rank=rank, world_size=2)
    try:
        torch.save(steps(), os.path.join(folder, f"{rank}.pt"))
    finally:
        distributed.destroy_process_group()


def test_two_processes_equal_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(one_of_two, (port, str(tmp_path)), nprocs=2)
    one = steps(shards=2)  # partners within each half, as two processes have them
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, value in one.items():
        assert torch.equal(first[name], second[name]), name
        if value.is_floating_point():
            assert_close(first[name], value, kind="training", name=name)
        else:
            assert torch.equal(first[name], value), name
