"""The classifier's loop: that it learns, repeats itself, goes on to the bit after any interruption, and says where it
diverged."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from experiments import runs, train
from experiments.data import Images, Side, load
from experiments.evaluate import batches, error
from experiments.keys import scheme_of
from experiments.networks import build
from experiments.seeds import generator
from experiments.settings import Fast, override

ROOT = Path(runs.__file__).parents[1]


@pytest.fixture(scope="module")
def few():
    return load("digits", override(Fast(), ["train_images=70", "test_images=30"]))


def settings_of(*changes):
    return override(Fast(), ["epochs=2", "batch=16", *changes])


def trained(data, settings, seed=3, **more):
    logged = []
    model = build(settings, data, seed)
    kept = train.train(model, data.defender, settings, seed, lambda *record: logged.append(record), **more)
    return model.state_dict(), kept, logged


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("n", [2, 5, 8, 9])
def test_batches_in_order_leave_none_alone(n):
    parts = batches(n, 4)
    assert torch.cat(parts).tolist() == list(range(n))
    assert all(len(part) > 1 for part in parts)


def test_training_batches_drop_one_left_alone():
    parts = batches(9, 4, generator(0))
    assert [len(part) for part in parts] == [4, 4]
    assert len(torch.cat(parts).unique()) == 8
    assert [len(part) for part in batches(10, 4, generator(0))] == [4, 4, 2]


FORMS = [
    ["adversary=penalty"],
    ["adversary=clip"],
    ["adversary=clip", "generator_step=summed", "generator_loss=fakes", "generator_every=1"],
    ["schedule=1:1:7"],
    ["adversary=off"],
    ["b=both"],
    ["b=noise", "swap=true"],
    ["b=bank", "bank=9"],
    ["precision=bf16"],
    ["augment=true"],
    ["form=original", "optimiser=sgd", "lr=0.01", "milestones=1"],
    ["form=noisy"],
    ["form=layers"],
    ["network=resnet20-alpha", "train_images=40", "batch=8"],
]


@pytest.mark.parametrize("changes", FORMS, ids=lambda c: ",".join(c[:2]))
def test_a_run_stopped_after_any_step_ends_as_one_that_was_not(few, changes, tmp_path):
    """Stopped by Ctrl-C in the middle of an epoch, written to disk, and taken up by a process that knows no more."""
    settings = settings_of(*changes)
    data = load("digits", override(settings, ["test_images=30"])) if "resnet" in settings.network else few
    whole, kept, logged = trained(data, settings)
    assert [record[:2] for record in logged] == [(1, 2), (2, 2)]
    assert kept in [record[2] for record in logged]
    assert ("critic_gap" in kept) is (settings.form == "complex" and settings.adversary != "off")

    def interrupt(trainer, steps, images):
        if trainer.turn == steps + 2:  # in the second epoch
            signal.raise_signal(signal.SIGINT)

    run = runs.Run(tmp_path, "one", {"epochs": 2}, "data")
    assert run.start() is None
    model = build(settings, data, 3)
    with pytest.raises(train.Interrupted):
        train.train(model, data.defender, settings, 3, lambda e, n, m: run.log(**m), run, watch=interrupt)
    again = runs.Run(tmp_path, "one", {"epochs": 2}, "data")
    state = again.start()
    assert state[1]["epoch"] == 1
    assert state[1]["step"] == 2
    assert again.metrics() == [logged[0][2]]
    resumed, kept_again, logged_again = trained(data, settings, run=again, state=state)
    assert same(whole, resumed)
    assert kept_again == kept
    assert logged_again == logged[1:]


def test_a_killed_run_ends_as_one_that_was_not(few, tmp_path):
    """SIGKILL after a step, in the middle of writing a checkpoint, and again."""
    whole, kept, _ = trained(few, settings_of())
    program = f"""
import os, signal, sys
from experiments import runs, train
from experiments.data import load
from experiments.networks import build
from experiments.settings import Fast, override
torch = __import__("torch"); torch.set_num_threads({torch.get_num_threads()})
settings = override(Fast(), ["epochs=2", "batch=16"])
data = load("digits", override(Fast(), ["train_images=70", "test_images=30"]))
run = runs.Run({str(tmp_path)!r}, "one", {{}}, "data")
state, model, where = run.start(), build(settings, data, 3), sys.argv[1]
def watch(trainer, steps, images):
    if where == "step" and trainer.turn == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if where == "writing" and trainer.turn == 6:
        runs.os.replace = lambda *a: os.kill(os.getpid(), signal.SIGKILL)
how = train.How(deterministic=True, checkpoint_every=0.0)
train.train(model, data.defender, settings, 3, lambda e, n, m: run.log(**m), run, how, watch, state)
run.save(model.state_dict())
"""
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    for where, status in (("step", -signal.SIGKILL), ("writing", -signal.SIGKILL), ("nowhere", 0)):
        done = subprocess.run(
            [sys.executable, "-c", program, where],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == status, done.stderr
    run = runs.Run(tmp_path, "one", {}, "data")
    assert same(whole, run.load())
    assert [m["epoch"] for m in run.metrics()] == [1, 2]
    assert kept in run.metrics()


def test_a_state_that_cannot_be_read_is_said(tmp_path):
    run = runs.Run(tmp_path, "one", {}, "data")
    run.start()
    (run.folder / runs.STATE).write_bytes(b"no state")
    with pytest.raises(OSError, match="state.safetensors cannot be read .*; remove it to begin this run anew"):
        run.start()


def test_a_run_under_another_commit_remembers_the_first(tmp_path, monkeypatch):
    run = runs.Run(tmp_path, "one", {}, "data")
    run.start()
    run.checkpoint({"x": torch.zeros(1)}, epoch=0)
    first = run.environment()
    monkeypatch.setattr(runs, "commit", lambda: "another")
    run.start()
    assert run.environment()["before"] == [{k: v for k, v in first.items() if k != "before"}]


def test_divergence_stops_before_it_reaches_the_checkpoint(few, tmp_path):
    settings = settings_of("form=original", "epochs=3")
    run = runs.Run(tmp_path, "one", {}, "data")
    run.start()
    model = build(settings, few, 0)

    def spoil(trainer, steps, images):
        if trainer.turn == steps + 1:
            next(model.parameters()).data[:] = torch.nan

    with pytest.raises(train.Diverged, match="loss is nan in epoch 2, by step 4"):
        train.train(model, few.defender, settings, 0, lambda e, n, m: run.log(**m), run, watch=spoil)
    tensors, facts = run.start()
    assert facts["epoch"] == 1
    assert all(t.isfinite().all() for k, t in tensors.items() if k.startswith("model."))


def spoil_weights(trainer):
    next(trainer.model.parameters()).data[:] = torch.nan


def spoil_critic(trainer):
    next(trainer.phases.wgan.critic.parameters()).data[:] = torch.nan


@pytest.mark.parametrize("spoil", [spoil_weights, spoil_critic])
@pytest.mark.parametrize("before_the_end", [0, 1], ids=["last-step", "step-before-a-checkpoint"])
def test_what_the_last_step_spoiled_does_not_reach_the_checkpoint(few, tmp_path, spoil, before_the_end):
    """Its loss is from before it: only the weights tell."""
    run = runs.Run(tmp_path, "one", {}, "data")
    run.start()

    def in_the_second_epoch(trainer, steps, images):
        if trainer.turn == 2 * steps - before_the_end:
            spoil(trainer)

    how = train.How(checkpoint_every=0.0)
    settings = settings_of("epochs=3")
    model = build(settings, few, 0)
    with pytest.raises(train.Diverged, match="is not finite in epoch 2, by step"):
        train.train(model, few.defender, settings, 0, lambda e, n, m: run.log(**m), run, how, in_the_second_epoch)
    tensors, facts = run.start()
    assert facts["epoch"] == 1
    assert all(t.isfinite().all() for t in tensors.values())


def test_a_validation_loss_that_is_no_number_stops_the_run(few, monkeypatch):
    monkeypatch.setattr(train, "error", lambda *args: (0.5, float("nan")))
    with pytest.raises(train.Diverged, match="val_loss is nan after epoch 1"):
        trained(few, settings_of("form=original"))


def test_in_a_graph_a_rate_lies_where_its_parameters_do():
    """A tensor on the CPU is to torch's optimisers a number, which a graph keeps."""
    device = torch.device("meta")
    trainer = SimpleNamespace(device=device, how=train.How(graph=True))
    one = torch.optim.SGD([torch.zeros(1, device=device, requires_grad=True)], lr=1.0)
    train.Trainer._set_rate(trainer, one, 0.5)
    rate = one.param_groups[0]["lr"]
    assert rate.device == device
    train.Trainer._set_rate(trainer, one, 0.05)
    assert one.param_groups[0]["lr"] is rate  # what a graph reads is written to


@pytest.mark.parametrize("adversary", ["penalty", "clip"])
def test_at_a_milestone_the_task_and_the_generator_slow_down_together(few, adversary):
    settings = settings_of(f"adversary={adversary}", "milestones=1,2", "epochs=3")
    rates = []

    def note(trainer, steps, images):
        rates.append(tuple(one.param_groups[0]["lr"] for one in trainer.optimisers().values()))

    train.train(build(settings, few, 0), few.defender, settings, 0, lambda *record: None, watch=note)
    clip = adversary == "clip"
    critic = settings.clip_critic_lr if clip else settings.critic_lr
    generator_lr = settings.clip_generator_lr if clip else settings.generator_lr
    steps = len(rates) // 3
    for epoch in range(3):
        expected = (settings.lr * 0.1**epoch, critic, generator_lr * 0.1**epoch)
        assert rates[epoch * steps : (epoch + 1) * steps] == [pytest.approx(expected)] * steps


def test_learns_and_keeps_the_best_epoch(few):
    settings = settings_of("form=original", "epochs=15", "lr=3e-3")
    model, errors = build(settings, few, 0), []
    kept = train.train(model, few.defender, settings, 0, lambda epoch, epochs, m: errors.append(m["val_error"]))
    scheme = scheme_of(settings)
    assert kept["val_error"] == min(errors)
    assert error(model, few.defender.val, scheme, 0, "validation")[0] == min(errors)
    assert error(model, few.defender.train, scheme, 0, "again")[0] < 0.2


@pytest.mark.parametrize("form", ["complex", "original"])
def test_attributes_are_learned_by_binary_cross_entropy(few, form):
    def bits(part):
        return Images(part.pixels, (part.labels[:, None] >> torch.arange(4) & 1).float())

    side = Side(*(bits(getattr(few.defender, p)) for p in ("train", "val", "test")))
    settings = settings_of(f"form={form}", "adversary=off", "epochs=8", "lr=3e-3")
    four = type("Outputs", (), {"outputs": 4})
    model = build(settings, four, 0)
    train.train(model, side, settings, 0, lambda *record: None)
    assert error(model, side.train, scheme_of(settings), 0, "again")[0] < 0.35  # a constant answer has about .4


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains(few, precision):
    settings = settings_of("adversary=off", "epochs=12", "lr=3e-3", f"precision={precision}", "form=original")
    model = build(settings, few, 0)
    train.train(model, few.defender, settings, 0, lambda *record: None)
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert error(model, few.defender.train, scheme_of(settings), 0, "again")[0] < 0.35


def test_metrics_are_plain_json(few):
    _, kept, _ = trained(few, settings_of())
    assert json.loads(json.dumps(kept)) == kept
