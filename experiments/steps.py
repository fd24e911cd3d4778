"""One batch of training: what is drawn for it, and its three phases (task, critic, generator).

Everything random is drawn beforehand on the CPU, so a phase is a function of tensors: it can be captured in a CUDA
graph, and a batch repeats itself wherever it runs.
"""

import contextlib

import torch
from torch import nn

from experiments import gan
from experiments.data import augment
from experiments.data.images import to_input
from experiments.evaluate import criterion
from experiments.seeds import angles

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def draw(settings, scheme, n, rng, shards=1):
    """Everything random of a batch of n: tensors by name, on the CPU, the same whichever phases take their turn.

    Args:
        scheme: how its key is drawn.   shards: see `Scheme.draw`.
    """
    drawn = scheme.draw(n, rng, shards)
    rows = len(drawn["theta"])
    drawn |= {
        "critic_fakes": wrong_angles(settings, drawn["theta"], rng),
        "share": torch.rand(rows, generator=rng),
        "generator_fakes": wrong_angles(settings, drawn["theta"], rng),
    }
    if settings.augment:
        rows, columns, flip = augment.draw(n, rng)
        if not settings.crop:  # where the padded image holds the image itself
            rows, columns = torch.full_like(rows, augment.MARGIN), torch.full_like(columns, augment.MARGIN)
        drawn |= {"rows": rows, "columns": columns, "flip": flip}
    return drawn


def wrong_angles(settings, theta, rng):
    """Angles `[N, k - 1]` that fakes are turned back by: anywhere, or pi/4, 3pi/4, 5pi/4 or 7pi/4 from the key's, so
    that no part of a fake is close to a feature."""
    if settings.fakes == "uniform":
        return angles(len(theta), settings.k - 1, rng=rng)
    eighths = 2 * torch.randint(0, 4, (len(theta), settings.k - 1), generator=rng) + 1
    return theta[:, None] + eighths * (torch.pi / 4)


def shard(drawn, rank, shards):
    """What of a batch's draws belongs to one process."""
    mine = {name: t.tensor_split(shards)[rank] for name, t in drawn.items()}
    return mine | {"partner": mine["partner"] - mine["partner"].min()}


class Walk(nn.Module):
    """A network's whole walk as one `forward`, which is what DistributedDataParallel and torch.compile take."""

    def __init__(self, model, scheme):
        super().__init__()
        self.model, self.scheme = model, scheme

    def forward(self, x, key):
        """(logits, features a, what the cloud saw z); without a key the last two are the features that crossed."""
        model = self.model
        a = model.encode(x)
        z = self.conceal(a, key)
        h = model.process(z)
        return (model.reveal(h, key["theta"], key.get("swap")) if model.keyed else model.reveal(h)), a, z

    def conceal(self, a, key):
        """What crosses of features a `[N, C, h, w]`; of pairs, N/2 rows."""
        if not self.model.keyed:
            return self.model.conceal(a)
        if self.scheme.b == "both":
            a, b = a.chunk(2)
        else:
            b = self.scheme.other(key)
        return self.model.conceal(a, key["theta"], b, key.get("swap"))


class Phases:
    """The three phases on one model.

    Args:
        walk: a `Walk`.   wrapped: it, or what is around it.
        optimiser: of the task.   wgan: a `gan.Wgan`, or None.
    """

    def __init__(self, walk, wrapped, optimiser, wgan, settings, device):
        self.walk, self.wrapped, self.optimiser, self.wgan, self.settings = walk, wrapped, optimiser, wgan, settings
        self.device = device
        self.scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16")

    def precision(self):
        """The classifier's precision; the WGAN stays in float32."""
        half = HALF.get(self.settings.precision)
        if half is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, half)

    def input(self, batch):
        """Pixels 0..1 to what the network reads."""
        x = to_input(batch["pixels"])
        if self.settings.augment:
            x = augment.crop_and_flip(x, batch["rows"], batch["columns"], batch["flip"])
        return x

    def task(self, batch):
        """A step of the classifier: {loss, a, z}, detached."""
        with self.precision():
            out, a, z = self.wrapped(self.input(batch), batch)
            loss = criterion(out.float(), batch["labels"])
        summed = self.wgan if self.settings.generator_step == "summed" else None
        total = loss
        if summed:
            summed.critic.requires_grad_(False)  # its own step is the critic's phase
            total = loss + summed.encoder_loss(a, z, batch["generator_fakes"])
        self.optimiser.zero_grad()
        self.scaler.scale(total * batch["weight"]).backward()
        self.scaler.step(self.optimiser)
        self.scaler.update()
        if summed:
            summed.generator_optimiser.step()
            summed.critic.requires_grad_(True)
        return {"loss": loss.detach(), "a": a.detach(), "z": z.detach()}

    def features(self, batch):
        """What the critic reads on a batch where the task has no turn: {a, z}."""
        with torch.no_grad():
            a = self.walk.model.encode(self.input(batch))
            return {"a": a, "z": self.walk.conceal(a, batch)}

    def critic(self, batch):
        """A step of the critic on the features that the batch holds: {critic_gap}."""
        gap = self.wgan.critic_step(batch["a"], batch["z"], batch["critic_fakes"], batch["share"], batch["weight"])
        return {"critic_gap": gap}

    def generator(self, batch):
        """A step of the encoder against the critic."""
        self.wgan.generator_step(self.input(batch), batch, batch["generator_fakes"], batch["weight"])
        return {}

    def step(self, batch, turn, run):
        """One batch: the phases whose turn it is; {loss, critic_gap}, as far as they were measured.

        Args:
            batch: pixels, labels, weight and the draws, by name.
            turn: the batch's number, which says whose turn it is.
            run: what calls a phase: `lambda name, phase, batch: phase(batch)`, or a graph's replay.
        """
        do_task, do_critic, do_generator = gan.turns(self.settings, turn) if self.wgan else (True, False, False)
        found = {}
        if do_task:
            found = run("task", self.task, batch)
        if do_critic:
            seen = found if do_task else run("features", self.features, batch)
            found = found | run("critic", self.critic, batch | {"a": seen["a"], "z": seen["z"]})
        if do_generator:
            run("generator", self.generator, batch)
        return {name: found[name] for name in ("loss", "critic_gap") if name in found}


class Replay:
    """Runs a phase as a CUDA graph: a few times as it is, on a stream of its own, then captured, then replayed.

    A batch of another size than the first (the last of an epoch) runs as it is.
    """

    WARM = 3  # steps before the capture: cuDNN chooses, kernels compile, gradients find their place

    def __init__(self, device):
        self.device, self.graphs, self.seen = device, {}, {}
        self.stream = torch.cuda.Stream(device)

    def __call__(self, name, phase, batch):
        sizes = {k: tuple(t.shape) for k, t in batch.items()}
        state = self.seen.setdefault(name, {"sizes": sizes, "runs": 0})
        if sizes != state["sizes"]:
            return phase(batch)
        if name not in self.graphs:
            if state["runs"] < self.WARM:
                state["runs"] += 1
                return self._beside(phase, batch)
            self._capture(name, phase, batch)
        graph, static, out = self.graphs[name]
        for k, t in batch.items():
            static[k].copy_(t, non_blocking=True)
        graph.replay()
        return {k: t.clone() for k, t in out.items()}

    def _beside(self, phase, batch):
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.stream):
            found = phase(batch)
        torch.cuda.current_stream(self.device).wait_stream(self.stream)
        return found

    def _capture(self, name, phase, batch):
        # capturing records and does not run: the batch's own step is the first replay
        static = {k: t.clone() for k, t in batch.items()}
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize(self.device)
        with torch.cuda.graph(graph, stream=self.stream):
            out = phase(static)
        self.graphs[name] = graph, static, out


def plainly(name, phase, batch):
    """Runs a phase as it is."""
    return phase(batch)
