"""Whole networks under what else torch offers: compiled, captured, repeated, autocast, float16 with its scaler."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.alexnet import alexnet
from models.lenet import lenet, wide_lenet
from models.resnet import resnet
from tests.close import assert_close
from tests.models.steps import key

NETWORKS = {
    "resnet": (lambda: resnet(20), (3, 16, 16)),
    "resnet-real-weights": (lambda: resnet(20, "beta", weights="real", generator="linear"), (3, 16, 16)),
    "lenet": (lambda: lenet(c="channel_mean"), (3, 32, 32)),
}
MORE = {
    "pairs": (lambda: wide_lenet(c="mean", both=True), (3, 32, 32)),
    "alexnet": (lambda: alexnet(classes=10), (3, 224, 224)),
}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def labels(n):
    return torch.arange(n) % 10


def batch(image, n=4, device="cpu"):
    return torch.randn(n, *image, device=device), labels(n).to(device)


def step(model, x, y):
    """Forward and backward of one training step; the loss."""
    theta = [k.to(x.device) for k in key(model, len(x))]
    loss = cross_entropy(model(x, *theta).float(), y)
    model.zero_grad(set_to_none=True)
    loss.backward()
    return loss


def state(model):
    """Every gradient and every buffer, by name."""
    grads = {f"grad of {name}": p.grad for name, p in model.named_parameters()}
    return {**grads, **dict(model.named_buffers())}


def assert_same(got, want):
    """Values by name; counts equal, the rest within a network's tolerance."""
    assert got.keys() == want.keys()
    for name, value in want.items():
        if value.is_floating_point():
            assert_close(got[name], value, value.dtype, "network", name)
        else:
            assert got[name].equal(value), name


@pytest.mark.parametrize("name", ["resnet", "lenet"])
def test_compiles_whole_without_a_graph_break(name):
    make, image = NETWORKS[name]
    model, (x, y) = make(), batch(image)
    twin = copy.deepcopy(model)
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    assert_close(step(compiled, x, y), step(model, x, y), torch.float32, "network")
    assert_same(state(twin), state(model))
    model.eval(), twin.eval()
    with torch.no_grad():
        assert_close(compiled(x, *key(model, len(x))), model(x, *key(model, len(x))), torch.float32, "network")


class Watch(TorchDispatchMode):
    """Names what a CUDA graph cannot hold: values read back to the host, sizes that hang on values, host memory copied.

    On the meta device, so that nothing is asked of a GPU; `device` is where the step's tensors are.
    """

    READ = {"_local_scalar_dense", "item", "is_nonzero", "equal", "allclose", "is_pinned"}
    SIZED = {"nonzero", "masked_select", "unique", "unique2", "_unique2", "unique_consecutive", "bincount"}

    def __init__(self, device="meta"):
        super().__init__()
        self.device, self.found = device, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.partition("::")[2]
        tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)]
        masks = [t for t in tree_leaves(args[1:2]) if isinstance(t, torch.Tensor) and t.dtype == torch.bool]
        by_mask = name in ("index", "index_put", "index_put_") and masks
        # a single number of the host's is an argument of the launch
        crossed = len({t.device.type for t in tensors if t.ndim or "copy" in name}) > 1
        if name in self.READ | self.SIZED or by_mask or crossed:
            self.found.append(name)
        return out


def test_the_watch_sees_what_a_graph_cannot_hold():
    x, host = torch.empty(3, device="meta"), torch.ones(3)
    with Watch() as watch:
        x + 1.5
        torch.where(x > 0, x, 0.0)
        x.to(torch.float64).mul_(torch.tensor(2.0))
    assert watch.found == []
    for call, name in (
        (lambda: host[0].item(), "_local_scalar_dense"),
        (lambda: bool(host.sum() > 1), "_local_scalar_dense"),
        (lambda: host[host > 0], "index"),
        (lambda: host.nonzero(), "nonzero"),
        (lambda: host.to("meta"), "_to_copy"),
        (lambda: x.copy_(host), "copy_"),
    ):
        with Watch() as watch:
            call()
        assert name in watch.found, name


@pytest.mark.parametrize("name", [*NETWORKS, *MORE])
def test_a_step_holds_nothing_that_a_graph_cannot(name):
    make, image = {**NETWORKS, **MORE}[name]
    with torch.device("meta"):
        model = make()
        x, y = torch.empty(4, *image), torch.empty(4, dtype=torch.int64)
        theta = torch.empty(2 if name == "pairs" else 4)
        with Watch() as watch:
            cross_entropy(model(x, theta), y).backward()
            with torch.no_grad():
                model.eval()(x, theta)
    assert watch.found == []
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.gpu
@pytest.mark.parametrize("name", NETWORKS)
def test_replays_of_a_captured_step_equal_eager_steps(name):
    make, image = NETWORKS[name]
    model, (x, y) = make().cuda(), batch(image, device="cuda")
    twin = copy.deepcopy(model)
    theta = [k.cuda() for k in key(model, len(x))]

    def train(net, optimiser):
        optimiser.zero_grad(set_to_none=False)
        cross_entropy(net(x, *theta), y).backward()
        optimiser.step()

    def optimiser(net):
        for p in net.parameters():
            p.grad = torch.zeros_like(p)
        return torch.optim.SGD(net.parameters(), lr=1e-2)

    eager, captured = optimiser(model), optimiser(twin)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            train(twin, captured)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        train(twin, captured)
    for _ in range(4):
        graph.replay()
    for _ in range(7):
        train(model, eager)
    assert_same(twin.state_dict(), model.state_dict())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_step_done_again_is_the_same_to_the_bit(name, device):
    make, image = NETWORKS[name]
    torch.use_deterministic_algorithms(True)  # an operation that cannot repeat itself raises
    model, (x, y) = make().to(device), batch(image, device=device)
    twin = copy.deepcopy(model)
    assert step(model, x, y).equal(step(twin, x, y))
    twins = state(twin)
    assert all(value.equal(twins[name]) for name, value in state(model).items())


def learns(model, image, dtype, scaler, device, steps=12):
    """First and last loss of a few steps on eight images, under autocast of this dtype (None: without)."""
    x, y = batch(image, 8, device)
    model = model.to(device)
    theta = [k.to(device) for k in key(model, len(x))]
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    losses = []
    for _ in range(steps):
        with torch.autocast(device, dtype, enabled=dtype is not None):
            out = model(x, *theta)
            assert out.dtype == (dtype or torch.float32)
            loss = cross_entropy(out.float(), y)
        optimiser.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimiser)
        scaler.update()
        losses.append(loss.item())
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert all(b.dtype in (torch.float32, torch.int64) for b in model.buffers())
    return losses[0], losses[-1]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["resnet", "lenet"])
def test_trains_in_half_precision(name, dtype, device):
    """float16 with gradients scaled, as cards without bfloat16 need it; both end near where float32 does."""
    make, image = NETWORKS[name]
    model = make()
    off = torch.amp.GradScaler(device, enabled=False)
    scaler = torch.amp.GradScaler(device, init_scale=2.0**10) if dtype == torch.float16 else off
    torch.manual_seed(1)
    first, last = learns(copy.deepcopy(model), image, dtype, scaler, device)
    torch.manual_seed(1)
    wide_first, wide_last = learns(model, image, None, off, device)
    assert wide_last < 0.7 * wide_first
    assert last < 0.7 * first
    assert first == pytest.approx(wide_first, rel=0.05)


@pytest.mark.parametrize("device", DEVICES)
def test_the_scaler_sees_gradients_that_float16_cannot_hold(device):
    """Infinite gradients reach the parameters as such: that step is left out, the next, scaled less, succeeds."""
    make, image = NETWORKS["resnet"]
    model, (x, y) = make().to(device), batch(image, device=device)
    theta = [k.to(device) for k in key(model, len(x))]
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler(device, init_scale=2.0**40, backoff_factor=2.0**-32)
    before = [p.detach().clone() for p in model.parameters()]
    moved = []
    for _ in range(2):
        with torch.autocast(device, torch.float16):
            loss = cross_entropy(model(x, *theta).float(), y)
        optimiser.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimiser)
        scaler.update()
        moved.append(any((p != b).any() for p, b in zip(model.parameters(), before, strict=True)))
    assert moved == [False, True]
    assert scaler.get_scale() == 2.0**8
    assert all(p.isfinite().all() for p in model.parameters())


def test_frozen_statistics_differentiate_too():
    """Fine-tuning in inference mode: gradients reach every parameter, and the running statistics stay."""
    make, image = NETWORKS["resnet"]
    model, (x, y) = make().eval(), batch(image)
    kept = {name: b.clone() for name, b in model.named_buffers()}
    step(model, x, y)
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    assert all(b.equal(kept[name]) for name, b in model.named_buffers())
    wide = copy.deepcopy(model).double()
    step(wide, x.double(), y)
    for name, p in model.named_parameters():
        assert_close(p.grad, wide.get_parameter(name).grad, torch.float32, "network", name)


def test_parameters_are_what_torchs_tools_take():
    """Plain real tensors: a fused optimiser steps them, and a state dict goes to and fro."""
    make, image = NETWORKS["lenet"]
    model, (x, y) = make(), batch(image)
    step(model, x, y)
    before = copy.deepcopy(model.state_dict())
    torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True).step()
    assert any((p != before[name]).any() for name, p in model.named_parameters())
    assert isinstance(nn.utils.clip_grad_norm_(model.parameters(), 1.0), torch.Tensor)
    other = make()
    other.load_state_dict(model.state_dict())
    assert all(p.equal(model.get_parameter(name)) for name, p in other.named_parameters())
