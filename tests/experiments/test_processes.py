"""Two processes on half a batch each train the same weights as one on the whole, and stop, write and go on together."""

import functools
import json
import os
import signal
import socket

import pytest
import torch
from safetensors.torch import load_file
from torch import distributed, multiprocessing

from experiments import processes, progress, train, verbs, victim
from experiments.__main__ import main
from experiments.data import Images
from experiments.networks import build
from experiments.settings import Report, override
from tests.close import assert_close

# ten batches an epoch, the last of five images, of which one process has three and the other two
SETTINGS = override(Report(), ["network=resnet20-alpha", "batch=8", "k=2", "lr=1e-3", "generator_lr=1e-3"])
IMAGES, EPOCHS = 77, 2
CHANGES = ["epochs=2", "batch=4", "train_images=60", "test_images=30"]  # 14 steps an epoch
WORDS = ["train", "lenet", "complex", "--preset", "fast", "--data", "digits", "--device", "cpu"]
WORDS += [part for change in CHANGES for part in ("--set", change)]


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


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def as_torchrun_starts(rank, port):
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)}


def one_of_two(rank, port, folder):
    as_torchrun_starts(rank, port)
    processes.join(torch.device("cpu"))
    torch.save(steps(), os.path.join(folder, f"{rank}.pt"))
    what_fails_on_the_first_fails_on_all(rank)
    processes.leave()


def what_fails_on_the_first_fails_on_all(rank):
    did = []

    def work():
        did.append(rank)
        raise OSError("no such disk")

    for way in (processes.told, processes.one_after):
        with pytest.raises(OSError, match="no such disk"):
            way(work)
    assert did == ([0, 0] if rank == 0 else [])
    assert processes.told(lambda: rank) == 0
    assert processes.one_after(lambda: rank) == rank
    assert processes.any_of(rank == 1, False) == (True, False)


def test_two_processes_equal_one(tmp_path):
    multiprocessing.spawn(one_of_two, (free_port(), str(tmp_path)), nprocs=2)
    one = steps(shards=2)  # partners within each half, as two processes have them
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, value in one.items():
        assert torch.equal(first[name], second[name]), name
        if value.is_floating_point():
            assert_close(first[name], value, kind="training", name=name)
        else:
            assert torch.equal(first[name], value), name


def stopped_and_continued(rank, ports, folder):
    """Ctrl-C at the second process alone, the same command again, and once more from the beginning."""
    progress.EVERY = 0.0 if rank else 1e9  # each asks for numbers by its own clock
    verbs.How = functools.partial(train.How, checkpoint_every=0.0)
    turns = []

    def interrupted(model, side, settings, seed, log, run, how, watch, state):
        def and_stop(trainer, steps, images):
            watch(trainer, steps, images)
            turns.append(trainer.turn)
            if rank == 1 and trainer.turn == 10:
                signal.raise_signal(signal.SIGINT)

        return train.train(model, side, settings, seed, log, run, how, and_stop, state)

    words = [*WORDS, "--runs", folder]
    as_torchrun_starts(rank, ports[0])
    victim.train = interrupted
    assert main(words) == 130
    assert turns == list(range(1, 17))  # both, at the next step where they ask each other
    victim.train = train.train
    assert main(words) == 0
    found = verbs._folders(folder)
    assert len(found) == 1
    weights = load_file(found[0] / "weights.safetensors") if rank == 0 else {}
    as_torchrun_starts(rank, ports[1])
    assert main([*words, "--force"]) == 0
    again = load_file(found[0] / "weights.safetensors") if rank == 0 else {}
    assert all(torch.equal(again[name], value) for name, value in weights.items())


def test_processes_stop_write_and_go_on_together(tmp_path):
    multiprocessing.spawn(stopped_and_continued, ([free_port(), free_port()], str(tmp_path)), nprocs=2)
    (run,) = verbs._folders(tmp_path)
    assert [json.loads(line)["epoch"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [1, 2]
    assert (run / "summary.json").is_file()
    assert not (run / "state.safetensors").exists()


def test_on_gpus_words_go_over_gloo(monkeypatch):
    """Whatever device torch would choose: the one that was asked for says over what its processes speak."""
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(distributed, "init_process_group", asked.append)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert processes.join(torch.device("cpu")) == torch.device("cpu")
    assert processes.join(torch.device("cuda")) == torch.device("cuda", 1)
    assert asked == ["gloo", "cpu:gloo,cuda:nccl"]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match="must be at most the GPUs here, 2, got 3 or more"):
        processes.join(torch.device("cuda"))
