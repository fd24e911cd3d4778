"""The classifier's loop."""

import pytest
import torch

from experiments import train
from experiments.data import load
from experiments.seeds import generator
from experiments.settings import Fast, override


@pytest.fixture(scope="module")
def few():
    return load("digits", override(Fast(), ["train_images=70", "test_images=30"])).defender


@pytest.mark.parametrize("n", [2, 5, 8, 9])
def test_batches_in_order_leave_none_alone(n):
    parts = train.batches(n, 4)
    assert torch.cat(parts).tolist() == list(range(n))
    assert all(len(part) > 1 for part in parts)


def test_training_batches_drop_one_left_alone():
    parts = train.batches(9, 4, generator(0))
    assert [len(part) for part in parts] == [4, 4]
    assert len(torch.cat(parts).unique()) == 8
    assert [len(part) for part in train.batches(10, 4, generator(0))] == [4, 4, 2]


@pytest.mark.parametrize("changes", [["adversary=penalty"], ["adversary=clip"], ["schedule=1:1:7"], ["adversary=off"]])
def test_a_seed_repeats_a_run(few, changes):
    settings = override(Fast(), ["epochs=2", "batch=16", *changes])

    def once():
        logged = []
        model = train.build("complex", settings, 10, 3)
        kept = train.train(model, few, settings, 3, lambda *record: logged.append(record))
        return model.state_dict(), kept, logged

    (one, kept, logged), (other, _, _) = once(), once()
    assert all(torch.equal(one[k], other[k]) for k in one)
    assert [record[:2] for record in logged] == [(1, 2), (2, 2)]
    assert kept in [record[2] for record in logged]
    assert ("critic_gap" in kept) is (changes != ["adversary=off"])


def test_learns_and_keeps_the_best_epoch(few):
    settings = override(Fast(), ["epochs=15", "batch=16", "lr=3e-3"])
    model, errors = train.build("original", settings, 10, 0), []
    kept = train.train(model, few, settings, 0, lambda epoch, epochs, m: errors.append(m["val_error"]))
    assert kept["val_error"] == min(errors)
    assert train.error(model, few.val, 0, "validation")[0] == min(errors)
    assert train.error(model, few.train, 0, "again")[0] < 0.2


def test_sgd_and_its_milestones(few):
    settings = override(Fast(), ["optimiser=sgd", "lr=0.01", "milestones=1", "epochs=2"])
    train.train(train.build("layers", settings, 10, 0), few, settings, 0, lambda *record: None)
