"""The classifier's loop: epochs, validation, checkpoints; an interrupted run goes on from its last step to the bit."""

import contextlib
import copy
import math
import signal
import time
from dataclasses import dataclass
from functools import partial

import torch
from torch import distributed

from cvkernels.nn import convert_sync_batch_norm
from experiments import gan, optimisers, processes
from experiments.evaluate import batches, error, stored
from experiments.keys import scheme_of
from experiments.networks import build_critic
from experiments.seeds import generator, number
from experiments.steps import Phases, Replay, Walk, draw, plainly, shard

CHECKPOINT_EVERY = 60.0  # seconds
AGREE_EVERY = 8  # steps between two questions of several processes whether to stop or to write a checkpoint


@dataclass(frozen=True)
class How:
    """How a run is worked at: nothing of it changes what is computed, beyond rounding.

    `graph`: capture the phases in CUDA graphs.   `compile`: torch.compile the network.   `deterministic`: torch's
    deterministic algorithms, so that a run repeats itself to the bit.   `tensorboard`: curves for it, beside the run.
    """

    graph: bool = False
    compile: bool = False
    deterministic: bool = False
    tensorboard: bool = False
    checkpoint_every: float = CHECKPOINT_EVERY


USUAL = How()


class Diverged(RuntimeError):
    """A loss that is no number; the message says where, and the run's last checkpoint is from before."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, after the step under way and a checkpoint."""


def optimiser(parameters, settings, graph=False):
    """The classifier's."""
    shared = {"lr": settings.lr, "weight_decay": settings.weight_decay, "fused": True}
    if settings.optimiser == "sgd":
        return torch.optim.SGD(parameters, momentum=settings.momentum, **shared)
    return torch.optim.Adam(parameters, capturable=graph, **shared)


class Trainer:
    """A network in training, with all that a step changes: what a checkpoint holds."""

    def __init__(self, model, settings, seed, device, how=USUAL, features=None, shards=None):
        """`features`: [C, s, s] of what crosses, which the critic of a keyed model reads.

        `shards`: how many processes a batch is cut between; the number of processes that there are, if not given.
        """
        self.model, self.settings, self.seed, self.device, self.how = model, settings, seed, device, how
        self.rank, self.world = processes.rank(), processes.world()
        self.shards = shards or self.world
        if settings.b == "both" and self.shards > 1:
            raise ValueError(
                "`b`=both pairs the halves of a batch, which several processes would part; use one process"
            )
        if self.world > 1:
            convert_sync_batch_norm(model)
            if device.type == "cuda":  # torch's own synchronise on a GPU only
                torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
        if device.type == "cpu":  # ResNet-20-alpha, N=128: a task step of .75 core-seconds instead of .85
            model.encoder.to(memory_format=torch.channels_last)
        self.task = optimiser(model.parameters(), settings, how.graph)
        self.scheme = scheme_of(settings)
        walk = wrapped = Walk(model, self.scheme)
        if distributed.is_initialized():
            ids = [device] if device.type == "cuda" else None
            wrapped = torch.nn.parallel.DistributedDataParallel(walk, device_ids=ids)
        if how.compile:
            wrapped = torch.compile(wrapped)
        wgan = None
        if model.keyed and settings.adversary != "off":
            critic = build_critic(settings, features, seed).to(device, next(model.parameters()).dtype)
            if device.type == "cpu":  # and a critic step of 1.26 instead of 1.56
                critic.to(memory_format=torch.channels_last)
            adam = partial(torch.optim.Adam, fused=True, capturable=how.graph)
            wgan = gan.Wgan(walk, critic, settings, adam, partial(torch.optim.RMSprop, capturable=how.graph))
        self.phases = Phases(walk, wrapped, self.task, wgan, settings, device)
        self.run_phase = Replay(device) if how.graph else plainly
        self.epoch, self.step, self.turn = 0, 0, 0  # epochs done, steps done of this one, batches in all
        self.rng = None
        self.sums = {}  # of this epoch: name -> (sum of the measurements, how many)
        self.best, self.kept = None, None

    # --- what a checkpoint holds ---

    def optimisers(self):
        found = {"task": self.task}
        if self.phases.wgan:
            found |= {"critic": self.phases.wgan.critic_optimiser, "generator": self.phases.wgan.generator_optimiser}
        return found

    def tensors(self):
        """Every tensor of the state, by name."""
        found = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        if self.phases.wgan:
            found |= {f"critic.{k}": v for k, v in self.phases.wgan.critic.state_dict().items()}
        for name, one in self.optimisers().items():
            found |= {f"{name}_optimiser.{k}": v for k, v in optimisers.tensors_of(one).items()}
        for k, (total, _) in self.sums.items():
            found[f"sum.{k}"] = total
        if self.kept:
            found |= {f"kept.{k}": v for k, v in self.kept[1].items()}
        if self.scheme.bank is not None:
            found["bank"] = self.scheme.bank
        return found | {"rng": self.rng.get_state()}

    def facts(self):
        """The rest of the state, plain values."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "turn": self.turn,
            "counts": {k: count for k, (_, count) in self.sums.items()},
            "best": self.best,
            "kept": self.kept and self.kept[0],
            "scaler": self.phases.scaler.state_dict(),
        }

    def restore(self, tensors, facts):
        """Go on from what `tensors` and `facts` gave."""

        def under(prefix):
            return {k[len(prefix) :]: v.to(self.device) for k, v in tensors.items() if k.startswith(prefix)}

        self.model.load_state_dict(under("model."))
        if self.phases.wgan:
            self.phases.wgan.critic.load_state_dict(under("critic."))
        for name, one in self.optimisers().items():
            optimisers.restore(one, under(f"{name}_optimiser."))
        self.epoch, self.step, self.turn = facts["epoch"], facts["step"], facts["turn"]
        totals = under("sum.")
        self.sums = {k: (totals[k], count) for k, count in facts["counts"].items()}
        self.best = facts["best"] and tuple(facts["best"])
        self.kept = (facts["kept"], under("kept.")) if facts["kept"] else None
        if facts["scaler"]:
            self.phases.scaler.load_state_dict(facts["scaler"])
        self.resumed_rng = tensors["rng"]
        self.scheme.bank = tensors["bank"].to(self.device) if "bank" in tensors else None

    # --- an epoch ---

    def begin_epoch(self, images):
        """The batches of this epoch, those done already left out (index tensors), and how many it has."""
        self.rng = generator(self.seed, "train", self.epoch)
        parts = [p for p in batches(len(images), self.settings.batch, self.rng) if len(p) >= 2 * self.shards]
        if self.settings.b == "both":  # images cross in pairs
            parts = [part[: len(part) // 2 * 2] for part in parts]
        if self.step:
            self.rng.set_state(self.resumed_rng)
        else:
            self.sums = {}
            if self.settings.b == "bank":
                self.scheme.bank = stored(self.model, images, self.settings, self.seed)
        fallen = 0.1 ** sum(self.epoch >= at for at in self.settings.milestones)
        self._set_rate(self.task, self.settings.lr * fallen)
        if self.phases.wgan:  # or the task would lose the encoder to the generator; the critic only follows
            self._set_rate(self.phases.wgan.generator_optimiser, self.phases.wgan.generator_lr * fallen)
        self.model.train()
        return parts[self.step :], len(parts)

    def _set_rate(self, optimiser, rate):
        """In a CUDA graph a rate is a tensor of its device: a number, or what torch's optimisers take for one, a tensor
        on the CPU, would be captured with the rest."""
        for group in optimiser.param_groups:
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = torch.tensor(rate, device=self.device) if self.how.graph else rate

    def batch(self, images, index):
        """One step on the images at `index`; with several processes, on this one's share of them."""
        drawn = draw(self.settings, self.scheme, len(index), self.rng, self.shards)
        torch.manual_seed(number(self.rng) + self.rank)  # what the network itself draws: dropout, noise
        weight = 1.0
        if self.world > 1:
            drawn = shard(drawn, self.rank, self.world)
            mine = index.tensor_split(self.world)[self.rank]
            weight, index = len(mine) * self.world / len(index), mine
        some = images.batch(index)
        dtype = next(self.model.parameters()).dtype
        held = {k: t.to(self.device, non_blocking=True) for k, t in drawn.items()}
        held |= {"pixels": some.pixels.to(dtype), "labels": some.labels}
        held["weight"] = torch.tensor(weight, dtype=dtype).to(self.device, non_blocking=True)
        for name, value in self.phases.step(held, self.turn, self.run_phase).items():
            total, count = self.sums.get(name, (torch.zeros((), device=self.device), 0))
            self.sums[name] = total + value, count + 1
        self.step += 1
        self.turn += 1

    def means(self):
        """The epoch's measurements so far, each a mean over its batches: of several processes, over this one's shares
        of those since `pool`."""
        return {k: (total / count).item() for k, (total, count) in self.sums.items()}

    def pool(self):
        """Measurements of all processes instead of this one's; all must do it after the same step."""
        if self.world > 1 and self.sums:
            totals = torch.stack([total for total, _ in self.sums.values()])
            distributed.all_reduce(totals)
            counts = (count for _, count in self.sums.values())
            self.sums = dict(zip(self.sums, zip(totals / self.world, counts, strict=True), strict=True))

    def agreed(self, *wishes):
        """Of each wish whether any process has it, asked every few steps: all processes act after the same one."""
        if self.world > 1 and self.turn % AGREE_EVERY:
            return (False,) * len(wishes)
        return processes.any_of(*wishes)


def train(model, side, settings, seed, log, run=None, how=USUAL, watch=None, state=None):
    """Train on `side.train`; keep the weights of the epoch with the lowest error (then loss) on `side.val`.

    Args:
        model: on the device of `side`'s labels.
        log: called after each epoch with (epoch, epochs, metrics).
        run: a started `runs.Run` to write checkpoints to; with `state`, what its `start` returned.
        watch: called after each step with (epochs done, share of this one, images, means()).
    Returns:
        The metrics of the epoch kept.
    Raises:
        Diverged: a loss or a weight that is no number.   Interrupted: Ctrl-C; the same run continues.
    """
    device = side.train.labels.device
    trainer = Trainer(model, settings, seed, device, how, _features(model, side.train) if model.keyed else None)
    if state:
        trainer.restore(*state)
    chief = run is not None and trainer.rank == 0
    with _precision(settings, how), _polite() as stopped:
        while trainer.epoch < settings.epochs:
            saved = time.monotonic()
            parts, steps = trainer.begin_epoch(side.train)
            for index in parts:
                trainer.batch(side.train, index)
                if watch:
                    watch(trainer, steps, len(index))
                late = chief and time.monotonic() - saved > how.checkpoint_every
                stop, save = trainer.agreed(stopped(), late)
                if stop or save:
                    _check(trainer)
                    if chief:
                        run.checkpoint(trainer.tensors(), **trainer.facts())
                    saved = time.monotonic()
                if stop:
                    processes.any_of(False)  # torchrun ends all once one has ended: not before the state is on disk
                    raise Interrupted
            metrics = _close_epoch(trainer, side, seed)
            log(trainer.epoch, settings.epochs, metrics)
            if chief:
                run.checkpoint(trainer.tensors(), **trainer.facts())
    model.load_state_dict(trainer.kept[1])
    # as one that is read from disk: torch's convolutions round another layout's weights differently (AVX2, 1e-7)
    model.encoder.to(memory_format=torch.contiguous_format)
    return trainer.kept[0]


def _close_epoch(trainer, side, seed):
    means = _check(trainer)
    val_error, val_loss = error(trainer.model, side.val, trainer.scheme, seed, "validation")
    if not math.isfinite(val_loss):
        raise Diverged(f"val_loss is {val_loss} after epoch {trainer.epoch + 1}")
    trainer.epoch, trainer.step, trainer.sums = trainer.epoch + 1, 0, {}
    metrics = {"epoch": trainer.epoch, "val_error": val_error, "val_loss": val_loss, **means}
    if trainer.best is None or (val_error, val_loss) <= trainer.best:
        trainer.best = val_error, val_loss
        trainer.kept = metrics, copy.deepcopy(trainer.model.state_dict())
    return metrics


def _check(trainer):
    """The epoch's means so far, by all processes; Diverged where one or a weight is no number, before that reaches a
    checkpoint. A loss tells of the weights before its step, so that of the last one tells nothing yet."""
    where = f"in epoch {trainer.epoch + 1}, by step {trainer.step}"
    trainer.pool()
    means = trainer.means()
    for name, value in means.items():
        if not math.isfinite(value):
            raise Diverged(f"{name} is {value} {where}")
    for name, t in trainer.tensors().items():
        if name.startswith(("model.", "critic.")) and not t.isfinite().all():
            raise Diverged(f"{name} is not finite {where}")
    return means


def _features(model, images):
    """[C, s, s] of what crosses to the cloud."""
    with torch.no_grad():
        training = model.training
        some = images.batch(torch.arange(2))
        shape = model.eval().encode(some.pixels.to(next(model.parameters()).dtype)).shape[1:]
        model.train(training)
    return tuple(shape)


@contextlib.contextmanager
def _precision(settings, how):
    """TF32 only where the settings say so; deterministic algorithms where they are asked for; as before afterwards."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    strict = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = settings.precision == "tf32"
    if how.deterministic:
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
        torch.use_deterministic_algorithms(strict[0], warn_only=strict[1])


@contextlib.contextmanager
def _polite():
    """A first Ctrl-C is answered after the step under way, a second one at once; yields a function that tells."""
    asked = []

    def note(signum, frame):
        if asked:
            raise KeyboardInterrupt
        asked.append(True)

    try:
        before = signal.signal(signal.SIGINT, note)
    except ValueError:  # not the main thread: whoever called has the signals
        before = None
    try:
        yield lambda: bool(asked)
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)
